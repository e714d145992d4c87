"""What a run will do, before it does it: names resolved, cells listed and looked for in the store, time estimated."""

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import torch

from robustprobe import probing
from robustprobe.attacks import Attack, load_attack
from robustprobe.attacks.base import target_tasks
from robustprobe.core.attack_spec import STANDARD_ATTACKS, AttackChoice, AttackSpec
from robustprobe.core.eps import default_eps
from robustprobe.core.errors import UserError
from robustprobe.core.fingerprints import code_digest, fingerprint
from robustprobe.core.registry import attacks, registered_name
from robustprobe.core.shared_names import distinct_names, split_name
from robustprobe.core.sizes import OWN_UNITS, format_eps
from robustprobe.core.spec import Suite
from robustprobe.core.straight_through import find_module, has_module
from robustprobe.core.user_code import source_digest
from robustprobe.core.views import Size, Windows
from robustprobe.datasets import Dataset, LabelReport, find_dataset, label_report, load_dataset
from robustprobe.encoders import Encoder, load_encoder, order_doubt
from robustprobe.evaluation.cells import AttackJob, Cell, EncoderOnDataset, EpsLevel, PairKey, Plan
from robustprobe.evaluation.cost import PassClock, estimate, peak_bytes
from robustprobe.evaluation.evaluate import is_checked_again
from robustprobe.results.store import Store
from robustprobe.tasks import fitting_attacks, tasks_with_loss


def make_plan(
    suite: Suite,
    store: Store,
    root: Path,
    device: torch.device,
    encoders: Iterable[Encoder] = (),
    leave_out: bool = False,
    sources: Iterable[Encoder] = (),
) -> Plan:
    """Resolve every name, list every cell, and find out which of them are done.

    Args:
        encoders: encoders already loaded, used instead of the suite's names.
        leave_out: attacks that fit no dataset are left out; they are a mistake otherwise.
        sources: the encoders of `transfer_from`, already loaded.

    Raises:
        UserError: anything that cannot be resolved, before any work is done.
    """
    given = tuple(encoders)
    suite = _with_attacks(_without_repeats(suite, named=not given), root, leave_out)
    suite = suite.model_copy(update={"head": probing.with_digest(suite.head)})
    own = given or tuple(load_encoder(name) for name in suite.encoders)
    others = tuple(sources) or tuple(load_encoder(name) for name in suite.transfer_from)
    loaded, moved = _named_apart(suite, own, others)
    _check_modules(suite, [*loaded, *moved])
    moved = [encoder.to(device) for encoder in moved]
    pairs = tuple(
        _pair(suite, PairKey(index, dataset), encoder.to(device), root, store, moved)
        for index, encoder in enumerate(loaded)
        for dataset in range(len(suite.datasets))
    )
    pairs = _with_orders(_with_labels(_with_readers(pairs, [*loaded, *moved])))
    clock = PassClock(device, suite)
    costs = {pair.key: estimate(suite, pair, clock) for pair in pairs if pair.left}
    seconds = sum(cost.seconds for cost in costs.values())
    kept = max((cost.kept_bytes for cost in costs.values()), default=0)
    given = (*given, *others) if given else ()
    return Plan(suite, root, device, pairs, seconds, kept, given, peak_bytes(suite, pairs, device, kept), costs)


def _without_repeats(suite: Suite, named: bool) -> Suite:
    """The suite with what is named twice once; encoders that are given as objects may share a name."""
    once = {"datasets": tuple(dict.fromkeys(suite.datasets))}
    return suite.model_copy(update=once | ({"encoders": tuple(dict.fromkeys(suite.encoders))} if named else {}))


def _named(suite: Suite, encoders: Sequence[Encoder]) -> list[Encoder]:
    """The encoders under names that tell them apart without the folders of this machine.

    Raises:
        UserError: two encoders were given one name.
    """
    own = [name for name, _ in map(split_name, suite.encoders) if name]
    if twice := next((name for name in own if own.count(name) > 1), ""):
        raise UserError(f"two encoders are called '{twice}'; give each its own name, as NAME=SPEC.")
    named = []
    for encoder, name in zip(encoders, distinct_names([e.card.name for e in encoders]), strict=True):
        if name != encoder.card.name:
            # The caller's own object keeps its name; weights are shared.
            encoder = copy.copy(encoder)
            encoder.card = encoder.card.model_copy(update={"name": name})
        named.append(encoder)
    return named


def _named_apart(
    suite: Suite, encoders: Sequence[Encoder], sources: Sequence[Encoder]
) -> tuple[list[Encoder], list[Encoder]]:
    """Encoders and sources of transfer under names that tell all of them apart; the same weights keep one name."""
    digests = {encoder.digest for encoder in encoders}
    new = [source for source in sources if source.digest not in digests]
    named = _named(suite, [*encoders, *new])
    by_digest = {encoder.digest: encoder for encoder in reversed(named)}
    return named[: len(encoders)], [by_digest[source.digest] for source in sources]


def _with_attacks(suite: Suite, root: Path, leave_out: bool) -> Suite:
    """The suite with its attacks named, each of which fits a dataset."""
    known = [task_names(suite, find_dataset(d.name, root=root, tasks=suite.tasks or ())) for d in suite.datasets]
    tasks = dict.fromkeys(task for names in known for task in names)
    choices = _apart(suite.attacks or STANDARD_ATTACKS)
    fitting = [choice for choice in choices if target_tasks(choice.name, fitting_attacks(tasks, choice.objective))]
    for choice in choices if suite.attacks else ():
        if choice not in fitting and not leave_out:
            needs = " or ".join(tasks_with_loss(choice.objective)) or _kind(choice.name).access
            label = f"{choice.name}:{choice.objective}" if choice.objective else choice.name
            raise UserError(f"attack {label} needs {needs} labels, which no dataset of this run has; leave it out.")
    units = {_kind(choice.name).own_unit for choice in fitting}
    for unit, facts in OWN_UNITS.items():
        if (given := getattr(suite, unit)) is not None and unit not in units:
            sizes = ", ".join(format_eps(size, unit) for size in given)
            raise UserError(
                f"{unit} {sizes} is for {facts.things}, and this run has none; "
                f"add --attack {facts.attack}, or leave the {unit} out."
            )
    return suite.model_copy(update={"attacks": tuple(fitting)})


def _apart(choices: Sequence[AttackChoice]) -> list[AttackChoice]:
    """The attacks, of several files of a user's with one content the first.

    Raises:
        UserError: two files of one name and another content, whose attacks results would call the same.
    """
    digests: dict[str, str] = {}
    found: dict[AttackChoice, AttackChoice] = {}
    for choice in choices:
        name, digest = registered_name(choice.name), source_digest(_kind(choice.name))
        if digests.setdefault(name, digest) != digest:
            raise UserError(f"two different attacks are called {name}, as results leave folders out; rename a file.")
        found.setdefault(choice.model_copy(update={"name": name}), choice)
    return list(found.values())


def task_names(suite: Suite, data: Dataset) -> list[str]:
    """The tasks that a suite evaluates on a dataset.

    Raises:
        UserError: the dataset has labels for none of them.
    """
    names = [task for task in data.spaces if suite.tasks is None or task in suite.tasks]
    if not names:
        raise UserError(
            f"{data.name} has labels for {', '.join(data.labels)}, not for {', '.join(suite.tasks or ())}; "
            "give one of its tasks with --task, or leave the dataset out."
        )
    return names


def _kind(attack: str) -> type[Attack]:
    return cast(type[Attack], attacks.get(attack))


def _with_labels(pairs: tuple[EncoderOnDataset, ...]) -> tuple[EncoderOnDataset, ...]:
    """The pairs with what their labels hold, which is asked once for each dataset."""
    known: dict[int, LabelReport] = {}
    for pair in pairs:
        if pair.key.dataset not in known:
            data = pair.heads.data
            known[pair.key.dataset] = label_report(data.train, pair.data, list(pair.head_keys), data.val)
    return tuple(pair._replace(labels=known[pair.key.dataset]) for pair in pairs)


def _with_orders(pairs: tuple[EncoderOnDataset, ...]) -> tuple[EncoderOnDataset, ...]:
    """The pairs with what is wrong about the order of patch tokens, which is asked once for each encoder."""
    found = {pair.key.encoder: order_doubt(pair.encoder) for pair in pairs if pair.key.dataset == 0}
    return tuple(pair._replace(heads=pair.heads._replace(order=found[pair.key.encoder])) for pair in pairs)


def _with_readers(pairs: tuple[EncoderOnDataset, ...], encoders: Sequence[Encoder]) -> tuple[EncoderOnDataset, ...]:
    """The pairs with the names of all encoders, where these share a file of texts and are no copies of one model."""
    models = {encoder.card.teacher or encoder.card.spec or encoder.card.name for encoder in encoders}
    if len(models) < 2:
        return pairs
    readers = tuple(dict.fromkeys(encoder.card.name for encoder in encoders))
    return tuple(
        pair._replace(heads=pair.heads._replace(readers=readers))
        if pair.heads.spec.zero_shot and not pair.heads.spec.zero_shot.templates
        else pair
        for pair in pairs
    )


def _pair(
    suite: Suite, key: PairKey, encoder: Encoder, root: Path, store: Store, sources: Sequence[Encoder]
) -> EncoderOnDataset:
    pair = load_pair(suite, key, encoder, root)
    first = len(suite.encoders)
    others = [load_pair(suite, PairKey(k, key.dataset), source, root) for k, source in enumerate(sources, first)]
    return pair._replace(jobs=tuple(job for other in (None, *others) for job in _jobs(suite, pair, store, other)))


def load_pair(suite: Suite, key: PairKey, encoder: Encoder, root: Path) -> EncoderOnDataset:
    """An encoder on a dataset of the suite, without the attacks.

    Raises:
        UserError: the dataset is not here.
    """
    wanted = suite.datasets[key.dataset]
    found = find_dataset(wanted.name, root=root, tasks=suite.tasks or ())
    names = task_names(suite, found)
    heads = probing.plan_heads(encoder, wanted, suite.head, root=root, tasks=names)
    size = heads.size if suite.attack_at == "served" else _native_size(found, heads)
    data = load_dataset(wanted.name, root=root, split=wanted.split, limit=wanted.limit, size=size, tasks=names)
    digest, content = data.digests()
    return EncoderOnDataset(key, encoder, data, digest, heads, (), content=content)


def _native_size(data: Dataset, heads: probing.HeadPlan) -> Size:
    """The dataset's own size, where models resize or pad whole images themselves.

    Raises:
        UserError: models see a crop or windows, which are cut from images of the size they are served at.
    """
    cut = [view.label for view in heads.views.values() if isinstance(view, Windows)]
    if data.crop != "none" or cut:
        why = f"its models see {cut[0]}" if cut else "a square is cut from the centre of its images"
        raise UserError(
            f"{data.name} cannot be attacked at its native size: {why}. Leave --attack-at native out, or choose a "
            "dataset and a recipe that show whole images (fast)."
        )
    return data.native_size


def _jobs(suite: Suite, pair: EncoderOnDataset, store: Store, source: EncoderOnDataset | None) -> list[AttackJob]:
    usual = default_eps(suite.norm, pair.data.typical_size)
    attacked = source or pair
    return [
        AttackJob(
            target_task,
            tuple(
                _level(suite, pair, store, spec, target_task, source)
                for spec in _attack_specs(suite, choice, kind, usual, attacked.encoder)
            ),
            source,
        )
        for choice in suite.attacks or ()
        for kind in [_kind(choice.name)]
        if source is None or kind.access != "nothing"
        for target_task in target_tasks(choice.name, fitting_attacks(attacked.head_keys, choice.objective))
    ]


def _attack_specs(
    suite: Suite, choice: AttackChoice, kind: type[Attack], usual_eps: float, encoder: Encoder
) -> list[AttackSpec]:
    """An attack at each eps; of modules with a straight-through backward pass those that the encoder has."""
    specs = suite.attack_specs(choice, kind.steps, kind.warm_start, usual_eps, kind.tuning, kind.own_unit)
    for spec in specs:
        load_attack(spec)
    return [spec.model_copy(update={"bpda": tuple(n for n in spec.bpda if has_module(encoder, n))}) for spec in specs]


def _check_modules(suite: Suite, encoders: Sequence[Encoder]) -> None:
    """Raises UserError for a name of a module that no encoder has, or that says too little."""
    for name in suite.replaced_modules:
        if not any(has_module(encoder, name) for encoder in encoders):
            find_module(encoders, name)


def _level(
    suite: Suite,
    pair: EncoderOnDataset,
    store: Store,
    spec: AttackSpec,
    target_task: str,
    source: EncoderOnDataset | None,
) -> EpsLevel:
    images = [pair.encoder.card.name, pair.encoder.digest, pair.digest, spec.shared.model_dump(mode="json")]
    code = [source_digest(_kind(spec.name)), code_digest()]
    group = [
        *images,
        target_task,
        (source or pair).head_keys.get(target_task, ""),
        suite.precision,
        suite.attack_at,
        *code,
    ]
    group += [source.encoder.card.name, source.encoder.digest] if source else []
    # Example images of a group show the answers of its heads.
    group += [] if suite.head.is_usual else [suite.head.kind, suite.head.training]
    group += [suite.head.zero_shot.sha256] if suite.head.zero_shot else []
    group += [(source or pair).heads.data.train.digest()] if _kind(spec.name).uses_training else []
    names = {task: fingerprint([*group, key]) for task, key in pair.head_keys.items()}
    known = {name: store.whole_record(name) for name in names.values()}
    checked = suite.checked_images(len(pair.data)) if source is None and is_checked_again(spec) else 0
    cells = tuple(
        Cell(task, name, True, record.checked_images < checked, record.provenance.threads)
        if (record := known[name])
        else Cell(task, name, False)
        for task, name in names.items()
    )
    return EpsLevel(fingerprint(group), spec, cells)
