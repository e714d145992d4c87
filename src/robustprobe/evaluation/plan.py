"""What a run will do, before it does it: names resolved, cells listed and looked for in the store, time estimated."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import torch

from robustprobe import probing
from robustprobe.attacks import Attack, Passes, attack_class, load_attack
from robustprobe.attacks.base import target_tasks
from robustprobe.core.device import bytes_of, free_memory, held_memory, seconds_of
from robustprobe.core.eps import default_eps, implausible_eps
from robustprobe.core.errors import UserError
from robustprobe.core.gradients import image_gradient
from robustprobe.core.registry import attacks
from robustprobe.core.shared_names import distinct_names, split_name
from robustprobe.core.spec import (
    CHECK_COST,
    STANDARD_ATTACKS,
    AttackChoice,
    AttackSpec,
    Suite,
    code_digest,
    fingerprint,
)
from robustprobe.core.straight_through import find_module, straight_through
from robustprobe.core.types import Features
from robustprobe.core.user_code import source_digest
from robustprobe.core.views import Resized, Size, View, Windows
from robustprobe.datasets import Dataset, LabelDoubt, find_dataset, label_doubts, load_dataset
from robustprobe.encoders import Encoder, load_encoder
from robustprobe.evaluation.evaluate import is_checked_again
from robustprobe.evaluation.memory import MAP_COPIES, batch_in_memory, probe_images
from robustprobe.results.store import Store
from robustprobe.tasks import fitting_attacks, load_task, tasks_with_loss

MOST_OUTPUT_BYTES = 2**30


class Cell(NamedTuple):
    """One number's worth of work: the task whose head judges, the name of everything the number depends on, whether it
    is in the store, and whether it is checked there on fewer images than the suite asks for.
    """

    task: str
    fingerprint: str
    done: bool
    lacks_checks: bool = False
    threads: tuple[int, ...] = ()
    """Threads of torch it was measured with, where it is done."""


class EpsLevel(NamedTuple):
    """An attack at one eps, the name of its adversarial images, and the cells they fill: all, so examples are whole."""

    group: str
    attack: AttackSpec
    cells: tuple[Cell, ...]


class AttackJob(NamedTuple):
    """One attack of a pair at ascending eps, against the model of one task or none; `source` is the encoder on these
    images that the attack is made on, None for the pair's own.
    """

    target_task: str
    levels: tuple[EpsLevel, ...]
    source: "EncoderOnDataset | None" = None

    @property
    def cells(self) -> list[Cell]:
        return [cell for level in self.levels for cell in level.cells]

    @property
    def name(self) -> str:
        """The attack in words."""
        label = self.levels[0].attack.label
        label = f"{label} against {self.target_task}" if self.target_task else label
        return f"{label} made on {self.source.encoder.card.name}" if self.source else label

    def is_checked_again(self, spec: AttackSpec) -> bool:
        """Whether sanity checks attack images again: those of a white-box attack would say nothing of a transfer."""
        return self.source is None and is_checked_again(spec)


class PairKey(NamedTuple):
    """Names an encoder on a dataset within a run: the index of each in the suite, whose `transfer_from` follows its
    `encoders`.
    """

    encoder: int
    dataset: int


class EncoderOnDataset(NamedTuple):
    """An encoder on a dataset: images to report on and their digest, the heads that judge, and the attacks."""

    key: PairKey
    encoder: Encoder
    data: Dataset
    digest: str
    heads: probing.HeadPlan
    jobs: tuple[AttackJob, ...]
    doubts: tuple[LabelDoubt, ...] = ()
    """What is implausible about the labels."""

    @property
    def head_keys(self) -> dict[str, str]:
        """Fingerprints of the heads, by task."""
        return self.heads.keys

    @property
    def left(self) -> list[AttackJob]:
        """Jobs with a cell that is not done."""
        return [job for job in self.jobs if not all(cell.done for cell in job.cells)]

    @property
    def label(self) -> str:
        return f"{self.encoder.card.name} on {self.data.name}"


class PairCost(NamedTuple):
    """Estimated seconds of what a pair lacks: fitting its heads, and each of the jobs in `left`; and the bytes of
    features that are kept while heads learn.
    """

    heads: float
    jobs: tuple[float, ...]
    kept_bytes: int

    @property
    def seconds(self) -> float:
        return self.heads + sum(self.jobs)


class Plan(NamedTuple):
    """What a run will do, before it does it. Seconds are an estimate from a short measurement on this machine, and
    `kept_bytes` what the features of the largest dataset take while heads learn.
    """

    suite: Suite
    root: Path
    device: torch.device
    pairs: tuple[EncoderOnDataset, ...]
    seconds: float
    kept_bytes: int = 0
    encoders: tuple[Encoder, ...] = ()
    """Encoders that were given as objects, in place of the suite's names."""
    peak_bytes: int | None = None
    """Most bytes that are expected to be held: on a GPU of tensors, on a CPU by the process; None where unknown."""

    costs: Mapping[PairKey, PairCost] = MappingProxyType({})
    """Of every pair that lacks something, what `seconds` is the sum of."""

    @property
    def head_seconds(self) -> float:
        """The part of `seconds` in which heads are fitted."""
        return sum(cost.heads for cost in self.costs.values())

    @property
    def cells(self) -> list[Cell]:
        """All cells of the run, done or not."""
        return [cell for pair in self.pairs for job in pair.jobs for cell in job.cells]

    @property
    def warnings(self) -> list[str]:
        """What is legal but implausible, one sentence each; records carry the same as failed checks."""
        nothing = ["eps 0 leaves the images as they are"] if 0 in (self.suite.eps or ()) else []
        said = dict.fromkeys(
            f"{pair.data.name}: {text}"
            for pair in self.pairs
            for job in pair.jobs
            for level in job.levels
            if (text := implausible_eps(level.attack, pair.data.typical_size))
        )
        said |= dict.fromkeys(f"{pair.data.name}: {task}: {text}" for pair in self.pairs for task, text in pair.doubts)
        return [*nothing, *said]

    def fingerprints(self) -> set[str]:
        """Names of all cells of the run, done or not."""
        return {cell.fingerprint for cell in self.cells}


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
    suite = _with_attacks(suite, root, leave_out)
    given = tuple(encoders)
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
    pairs = _with_doubts(pairs)
    clock = PassClock(device, suite)
    costs = {pair.key: _estimate(suite, pair, clock) for pair in pairs if pair.left}
    seconds = sum(cost.seconds for cost in costs.values())
    kept = max((cost.kept_bytes for cost in costs.values()), default=0)
    given = (*given, *others) if given else ()
    return Plan(suite, root, device, pairs, seconds, kept, given, _peak(suite, pairs, device, kept), costs)


def _peak(suite: Suite, pairs: Sequence[EncoderOnDataset], device: torch.device, kept: int) -> int | None:
    """What is held already, and the larger of a batch under attack and the features that heads learn from."""
    memory, batches = PassMemory(device, suite), [kept if kept < probing.MOST_IN_MEMORY else 0]
    for pair in (pair for pair in pairs if pair.left):
        view = next(iter(pair.heads.views.values()))
        count = min(len(pair.data), pair_batch(suite.batch_size, pair.encoder, view, pair.data, memory))
        batches.append(count * memory.image_bytes(pair.encoder, view, pair.data))
    held = held_memory(device)
    return None if held is None or not any(memory.known.values()) else held + max(batches)


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
    known = [task_names(suite, find_dataset(d.name, root=root)) for d in suite.datasets]
    tasks = dict.fromkeys(task for names in known for task in names)
    choices = suite.attacks or STANDARD_ATTACKS
    fitting = [choice for choice in choices if target_tasks(choice.name, fitting_attacks(tasks, choice.objective))]
    for choice in suite.attacks or ():
        if choice not in fitting and not leave_out:
            needs = " or ".join(tasks_with_loss(choice.objective)) or _kind(choice.name).access
            label = f"{choice.name}:{choice.objective}" if choice.objective else choice.name
            raise UserError(f"attack {label} needs {needs} labels, which no dataset of this run has; leave it out.")
    return suite.model_copy(update={"attacks": tuple(fitting)})


def task_names(suite: Suite, data: Dataset) -> list[str]:
    """The tasks that a suite evaluates on a dataset.

    Raises:
        UserError: the dataset has labels for none of them.
    """
    names = [task for task in data.labels if suite.tasks is None or task in suite.tasks]
    if not names:
        raise UserError(
            f"{data.name} has labels for {', '.join(data.labels)}, not for {', '.join(suite.tasks or ())}; "
            "give one of its tasks with --task, or leave the dataset out."
        )
    return names


def _kind(attack: str) -> type[Attack]:
    return cast(type[Attack], attacks.get(attack))


def _with_doubts(pairs: tuple[EncoderOnDataset, ...]) -> tuple[EncoderOnDataset, ...]:
    """The pairs with what is implausible about their labels, which is asked once for each dataset."""
    known: dict[int, tuple[LabelDoubt, ...]] = {}
    for pair in pairs:
        if pair.key.dataset not in known:
            found = label_doubts(pair.heads.data.train, pair.data, list(pair.head_keys))
            known[pair.key.dataset] = tuple(found)
    return tuple(pair._replace(doubts=known[pair.key.dataset]) for pair in pairs)


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
    names = task_names(suite, find_dataset(wanted.name, root=root))
    heads = probing.plan_heads(encoder, wanted, suite.head, root=root, tasks=names)
    size = heads.size if suite.attack_at == "served" else _native_size(find_dataset(wanted.name, root=root), heads)
    data = load_dataset(wanted.name, root=root, split=wanted.split, limit=wanted.limit, size=size)
    return EncoderOnDataset(key, encoder, data, data.digest(), heads, ())


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
    specs = suite.attack_specs(choice, kind.steps, kind.warm_start, usual_eps, kind.tuning)
    for spec in specs:
        load_attack(spec)
    return [spec.model_copy(update={"bpda": tuple(n for n in spec.bpda if _has(encoder, n))}) for spec in specs]


def _check_modules(suite: Suite, encoders: Sequence[Encoder]) -> None:
    """Raises UserError for a name of a module that no encoder has, or that says too little."""
    for name in _replaced_modules(suite):
        if not any(_has(encoder, name) for encoder in encoders):
            find_module(encoders, name)


def _replaced_modules(suite: Suite) -> list[str]:
    """Names of the modules that some attack of the suite gives a straight-through backward pass."""
    choices = [name for choice in suite.attacks or () for name in choice.bpda or ()]
    return list(dict.fromkeys([*(suite.bpda or ()), *choices]))


def _as_attacked(encoder: Encoder, suite: Suite | None) -> Callable[..., Any]:
    """The encoder with every straight-through backward pass of the suite."""
    names = [name for name in _replaced_modules(suite) if _has(encoder, name)] if suite else []
    return straight_through(encoder, dict.fromkeys(names))


def _has(encoder: Encoder, name: str) -> bool:
    try:
        find_module([encoder], name)
    except UserError:
        return False
    return True


def _level(
    suite: Suite,
    pair: EncoderOnDataset,
    store: Store,
    spec: AttackSpec,
    target_task: str,
    source: EncoderOnDataset | None,
) -> EpsLevel:
    images = [pair.encoder.card.name, pair.encoder.digest, pair.digest, spec.model_dump(mode="json")]
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


def pair_batch(wanted: int, encoder: Encoder, view: View, data: Dataset, memory: "PassMemory | None" = None) -> int:
    """Images attacked at once: fewer where a view shows far more pixels of each than the encoder is made for, where
    their output maps would take more than `MOST_OUTPUT_BYTES`, or all of them more than `MEMORY_SHARE` of what is free.
    """
    size = data.typical_size
    height, width = view.output_size(size)
    channels = max(load_task(name, space).map_channels for name, space in data.labels.items())
    most = MOST_OUTPUT_BYTES // (4 * height * width * channels) if channels else wanted
    if memory is not None:
        most = batch_in_memory(most, memory.image_bytes(encoder, view, data), free_memory(memory.device))
    if not isinstance(view, Resized):
        most = min(most, wanted * encoder.card.input_size[0] * encoder.card.input_size[1] // view.pixels(size))
    return max(1, min(wanted, most))


class PassMemory:
    """Measures what an image holds during one step of an attack, once for every encoder and size."""

    def __init__(self, device: torch.device, suite: Suite | None = None) -> None:
        self.device, self.suite = device, suite
        self.known: dict[tuple[str, Size], int] = {}

    def image_bytes(self, encoder: Encoder, view: View, data: Dataset) -> int:
        """Bytes per image: those of the passes through the encoder, and its output maps; 0 where not known."""
        size = data.typical_size
        part = view.part_size(size)
        passes = round(self._part_bytes(encoder, part) * view.pixels(size) / (part[0] * part[1]))
        if not passes:
            return 0
        height, width = view.output_size(size)
        channels = max(load_task(name, space).map_channels for name, space in data.labels.items())
        return passes + 4 * height * width * channels * MAP_COPIES

    def _part_bytes(self, encoder: Encoder, part: Size) -> int:
        key = (encoder.digest, part)
        if key not in self.known:
            many = probe_images(part)
            images = torch.rand(many, 3, *part, device=self.device)
            # The first pass also allocates what every later one uses again.
            seen = _as_attacked(encoder, self.suite)
            _one_step(seen, images[:1])
            held = bytes_of(lambda: _one_step(seen, images), self.device)
            self.known[key] = 0 if held is None else held // many
        return self.known[key]


class PassClock:
    """Measures what passes through encoders take, once for every size of image."""

    def __init__(self, device: torch.device, suite: Suite | None = None) -> None:
        self.device, self.suite = device, suite
        self.known: dict[tuple[str, Size], tuple[float, float]] = {}

    def seconds(self, encoder: Encoder, size: Size) -> tuple[float, float]:
        """Seconds an image of `size`: forward, and forward and backward."""
        key = (encoder.digest, size)
        if key not in self.known:
            many = probe_images(size)
            images = torch.rand(many, 3, *size, device=self.device)
            seen = _as_attacked(encoder, self.suite)
            forward, step = seconds_of(lambda: encoder(images)), seconds_of(lambda: _one_step(seen, images))
            self.known[key] = forward / many, step / many
        return self.known[key]


def _estimate(suite: Suite, pair: EncoderOnDataset, clock: PassClock) -> PairCost:
    """What a pair lacks costs, from one pass each way and one training step of each missing head."""
    size = pair.data.typical_size
    forward, step = _pass_seconds(pair, size, clock)
    shown = 3 * suite.extreme_examples * len(pair.head_keys) if suite.examples else 0
    extra = 1 + (CHECK_COST * suite.checked_images(len(pair.data)) + min(shown, len(pair.data))) / len(pair.data)
    heads = pair.heads.cost(forward, clock.device)
    jobs = []
    for job in pair.left:
        seconds, attacked = 0.0, _pass_seconds(job.source, size, clock) if job.source else (forward, step)
        for level in job.levels:
            passes = _passes(pair, job.target_task, level.attack)
            searched = (passes.forwards - passes.backwards) * attacked[0] + passes.backwards * attacked[1]
            # Adversarial images are judged as they are, and rounded to 8 bits.
            judged = 2 * level.attack.judgements * _judged_images(pair, job.target_task, level.attack)
            seconds += searched * extra + judged * forward
        jobs.append(seconds * len(pair.data))
    return PairCost(heads.seconds, tuple(jobs), heads.kept_bytes)


def _pass_seconds(pair: EncoderOnDataset, size: Size, clock: PassClock) -> tuple[float, float]:
    """Seconds an image of `size`: forward, and forward and backward."""
    view = next(iter(pair.heads.views.values()))
    part = view.part_size(size)
    parts = view.pixels(size) / (part[0] * part[1])
    forward, step = clock.seconds(pair.encoder, part)
    return parts * forward, parts * step


def _judged_images(pair: EncoderOnDataset, target_task: str, spec: AttackSpec) -> int:
    """How many images are judged for each one: several where it is chosen among them what counts."""
    if not (target_task and attack_class(spec).whole_set):
        return 1
    losses = load_task(target_task, pair.data.labels[target_task]).attack_losses
    return 2 + len(losses.ensemble) if losses.of_set else 1


def _passes(pair: EncoderOnDataset, target_task: str, spec: AttackSpec) -> Passes:
    """The most passes that an attack makes per image."""
    losses = load_task(target_task, pair.data.labels[target_task]).attack_losses if target_task else None
    return load_attack(spec).total_passes(losses)


def _one_step(encoder: Callable[[torch.Tensor], Features], images: torch.Tensor) -> None:
    images = images.clone().requires_grad_(True)
    image_gradient(encoder(images).patches.square().sum(), images)
