"""The loop: adversarial images are made once, and every head judges them. Touches no file, prints nothing."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from robustprobe.attacks import (
    BATCH,
    Attack,
    Attacked,
    TrainBatch,
    UniversalAttack,
    Victim,
    attack_class,
    load_attack,
)
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.errors import UserError
from robustprobe.core.fast_linear import fast_linear
from robustprobe.core.freeze import frozen
from robustprobe.core.patches import box_mask
from robustprobe.core.resize import resized
from robustprobe.core.sizes import SEVERITY
from robustprobe.core.types import Batch, FeatureDims, Features, LabelSpace, SanityCheck
from robustprobe.core.views import Size, View, last_layers
from robustprobe.datasets import Dataset, batches
from robustprobe.encoders import Encoder
from robustprobe.evaluation.collect import Judged, KeptImage, largest_group
from robustprobe.evaluation.sanity_checks import CheckedImages, JudgingModel, sample_checks
from robustprobe.evaluation.universal_perturbations import UniversalPerturbations
from robustprobe.evaluation.victims import IDENTICAL, BackwardPass, SurrogatesOf, encoder_victim, task_victim
from robustprobe.losses.embedding import class_cosine
from robustprobe.metrics.statistics import CLEAN_THERE, CONTROL_THERE, DRIFT, PATCH
from robustprobe.probing.surrogate_heads import SurrogateHeads
from robustprobe.tasks import Model, Task

Columns = dict[str, Tensor]
Embeddings = Mapping[View, Features]
MOST_LABELS = 200
KNN = "knn_"
"""Before the names of columns of a second head, which votes among neighbours."""


class EvaluationSpec(NamedTuple):
    """One attack at ascending eps on listed images of one dataset, judged by every model of one encoder.

    `target_task` is the task whose model is attacked, empty where the attack sees no head. `surrogates` gives the
    surrogate heads for images of a size; None: those of `encoder`.
    """

    encoder: Encoder
    models: Mapping[str, Model]
    dataset: Dataset
    attacks: tuple[AttackSpec, ...]
    target_task: str
    judges: list[str]
    batch_size: int
    precision: str
    device: torch.device
    surrogates: SurrogatesOf | None = None
    source: "EvaluationSpec | None" = None
    """The encoder and models that are attacked where they are not those that judge."""
    universal: UniversalPerturbations | None = None
    """Makes perturbations for all images on training images; None where there are none."""
    space: LabelSpace | None = None
    """The label space of the attacked task with what is known of the labels of all images; None: not looked at yet."""

    @property
    def view(self) -> View:
        """How the encoder alone is shown the images: as the first judge's model, its last layer only."""
        return replace(self.models[self.judges[0]].view, layers=1)


def evaluate(
    work: EvaluationSpec, positions: Sequence[int] | None = None, keep: Collection[int] = ()
) -> Iterator[tuple[Judged, ...]]:
    """Attack and judge images of the work, batch by batch: what each batch leaves, one entry per eps.

    Args:
        positions: which images of the dataset, and in which order; all, in its own order, by default.
        keep: positions of the images that are kept themselves, to be shown or attacked again.
    """
    attacks = [load_attack(spec) for spec in work.attacks]
    positions, first = range(len(work.dataset)) if positions is None else positions, 0
    work = work._replace(surrogates=_surrogates(work), space=space_of_set(work))
    for batch in batches(work.dataset, work.batch_size, order=positions):
        here = positions[first : first + len(batch.ids)]
        first += len(batch.ids)
        batch = _on(batch, work.device)
        seen = victim(work, batch.targets, here, _size(batch.images))
        drifting = any(attack.own_unit == SEVERITY for attack in attacks)
        clean = _embeddings(work, batch.images) if drifting else {}
        previous, judged = None, []
        for attack in attacks:
            attacked = attack.run(seen, batch.images, batch.ids, previous if attack.spec.warm else None)
            judged.append(judge(work, attack, batch, here, attacked, keep, clean))
            previous = attacked.images
        yield tuple(judged)


def space_of_set(work: EvaluationSpec) -> LabelSpace | None:
    """The label space of the attacked task, with what balanced losses need, from labels of up to `MOST_LABELS` images.

    They are spread evenly over the dataset, so that every part of a run sees the same ones.
    """
    if work.space or not work.target_task:
        return work.space
    task = work.models[work.target_task].task
    balanced = task.attack_losses.balanced
    if not balanced or not any(attack_class(s).whole_set or s.objective in balanced for s in work.attacks):
        return task.space
    count = len(work.dataset)
    places = sorted({round(k * (count - 1) / max(1, MOST_LABELS - 1)) for k in range(MOST_LABELS)})
    places = list(range(count)) if count <= MOST_LABELS else places
    return task.space_of_set(torch.as_tensor(work.dataset[place].targets[work.target_task])[None] for place in places)


def victim(work: EvaluationSpec, targets: Mapping[str, Tensor], positions: Sequence[int], size: Size) -> Victim:
    """What the attack may see of the images at `positions`; the goal of an embedding is the dataset's next image."""
    if work.source is not None:
        given = work
        work = work.source._replace(dataset=given.dataset, attacks=given.attacks, target_task=given.target_task)
        work = work._replace(space=given.space)
    # The attacks of a work differ in eps alone.
    bpda = BackwardPass(dict.fromkeys(work.attacks[0].bpda)) if work.attacks else IDENTICAL
    universal = partial(_universal, work, work.universal) if work.universal else None
    if work.target_task:
        model = work.models[work.target_task]
        seen = task_victim(model, model.task, targets[work.target_task], size, precision=work.precision, bpda=bpda)
        return seen._replace(space=work.space or seen.space, universal=universal)
    goals = None
    if any(spec.objective.startswith("towards-") for spec in work.attacks):
        following = [work.dataset[(position + 1) % len(work.dataset)].image for position in positions]
        goals = torch.stack([resized(image, size) for image in following]).to(work.device)
    heads = _surrogates(work)
    seen = encoder_victim(work.encoder, work.view, precision=work.precision, goals=goals, surrogates=heads, bpda=bpda)
    return seen._replace(universal=universal)


def _universal(work: EvaluationSpec, made: UniversalPerturbations, attack: UniversalAttack) -> Tensor:
    """The perturbation of an attack on the work's encoder or model: of the training images alone."""
    train, size = made.train, made.train.typical_size
    own = work._replace(dataset=train, attacks=(attack.spec,), space=None, universal=None, source=None)
    own = own._replace(space=space_of_set(own))

    def batches_at(places: list[int]) -> Callable[[], Iterator[TrainBatch]]:
        def read() -> Iterator[TrainBatch]:
            first = 0
            for batch in batches(train, BATCH, order=places):
                here, first = places[first : first + len(batch.ids)], first + len(batch.ids)
                batch = _on(batch, work.device)
                yield TrainBatch(victim(own, batch.targets, here, size), resized(batch.images, size))

        return read

    with fast_linear(), frozen(work.encoder):
        return made.of(attack, work.target_task, batches_at)


@torch.no_grad()
def judge(
    work: EvaluationSpec,
    attack: Attack,
    batch: Batch,
    positions: Sequence[int],
    attacked: Attacked,
    keep: Collection[int] = (),
    clean: Embeddings = MappingProxyType({}),
) -> Judged:
    """Every judge's verdict on the adversarial images of a batch, in fp32: of several judgements the worst.

    Rows have the embedding's drift from `clean` where that is given.
    """
    each = tuple(
        judge(work, attack, batch, positions, attacked._replace(images=made, searches=()), keep, clean)
        for made in attacked.searches
    )
    kept = [row for row, position in enumerate(positions) if position in keep]
    made = attacked.images
    times = attack.spec.judgements
    targets = _outside(work, batch, attacked)
    exact, answers = _worst_verdicts(work, made, targets, kept, times, clean)
    rounded, _ = _worst_verdicts(work, (made * 255).round() / 255, targets, [], times)
    if attacked.boxes is not None and attacked.control is not None:
        for beside, images in ((CLEAN_THERE, batch.images), (CONTROL_THERE, attacked.control)):
            others, _ = _worst_verdicts(work, images, targets, [], times)
            for name, columns in others.items():
                exact[name] |= {f"{beside}{column}": values for column, values in columns.items()}
        for columns in exact.values():
            columns[PATCH] = attacked.boxes.cpu()
    return Judged(
        positions=torch.tensor(list(positions)),
        ids=batch.ids,
        size=attack.threat.size(made - batch.images).cpu(),
        zero_gradient=attacked.zero_gradient,
        rising=attacked.rising,
        passes=(attacked.forwards, attacked.backwards),
        ends=(float(made.min()), float(made.max())),
        rows=exact,
        rounded=rounded,
        kept=[
            _kept(work, positions[row], row, batch, attacked, exact, shown)
            for row, shown in zip(kept, answers, strict=True)
        ],
        searches=each,
        tokens=_tokens(work, batch.images, made) if _is_on_encoder(work, attack.spec) else (),
    )


def _outside(work: EvaluationSpec, batch: Batch, attacked: Attacked) -> Mapping[str, Tensor]:
    """The labels of a batch that count: outside of patches."""
    if attacked.boxes is None:
        return batch.targets
    mask = box_mask(attacked.boxes.to(batch.images.device), _size(batch.images))
    return {**batch.targets, **{t: work.models[t].task.without(batch.targets[t], mask) for t in work.judges}}


def _is_on_encoder(work: EvaluationSpec, spec: AttackSpec) -> bool:
    """Whether an attack is one on the judging encoder alone."""
    return spec.eps != 0 and work.source is None and attack_class(spec).access == "encoder"


def _tokens(work: EvaluationSpec, images: Tensor, made: Tensor) -> tuple[Tensor, ...]:
    """Features of images and of what an attack made of them, (B, 2, D), for each of `TOKENS`."""
    with fast_linear():
        both = [pooled_tokens(work.view.features(work.encoder, shown), len(images)) for shown in (images, made)]
    return tuple(torch.stack(pair, 1) for pair in zip(*both, strict=True))


def pooled_tokens(features: Features, images: int) -> tuple[Tensor, Tensor]:
    """Class token and mean patch token of each image, (B, D), on the CPU; of an image shown in parts their mean."""
    cls, patch = (
        tokens.unflatten(0, (images, -1)).mean(1).float().cpu()
        for tokens in (features.cls, features.patches.mean((2, 3)))
    )
    return cls, patch


def is_checked_again(spec: AttackSpec) -> bool:
    """Whether an attack is checked by running it again: not where it changes nothing, looks at no model, or was made
    on training images.
    """
    kind = attack_class(spec)
    # A patch has a control of its own in the same place.
    return spec.eps != 0 and kind.access != "nothing" and not kind.uses_training and kind.own_unit is None


def check_again(
    work: EvaluationSpec, spec: AttackSpec, kept: Sequence[KeptImage], chance: Mapping[str, float | None] = {}
) -> dict[str, list[SanityCheck]]:
    """What running the attack again on a few images tells, by judging task; `chance` is that of each task's labels."""
    if not kept or work.source is not None or not is_checked_again(spec):
        return {}
    device, kept = work.device, largest_group(kept)
    work = work._replace(attacks=(spec,))._replace(space=space_of_set(work))
    labels = {t: torch.stack([k.targets[t] for k in kept]).to(device) for t in work.dataset.spaces}
    images = torch.stack([k.image for k in kept]).to(device)
    sample = CheckedImages(
        victim(work, labels, [k.position for k in kept], _size(images)),
        images,
        [k.id for k in kept],
        torch.stack([k.adversarial for k in kept]).to(device),
        torch.stack([k.damage for k in kept]),
    )
    tasks = [work.target_task] if work.target_task else work.judges
    models = {t: JudgingModel(work.models[t], labels[t], work.models[t].task, chance.get(t)) for t in tasks}
    return sample_checks(spec, sample, models)


def _surrogates(work: EvaluationSpec) -> SurrogatesOf:
    return work.surrogates or SurrogateHeads(work.encoder, work.device)


def _on(batch: Batch, device: torch.device) -> Batch:
    return Batch(
        batch.ids, batch.images.to(device), {task: target.to(device) for task, target in batch.targets.items()}
    )


def _size(images: Tensor) -> Size:
    return images.shape[-2], images.shape[-1]


def _worst_verdicts(
    work: EvaluationSpec,
    images: Tensor,
    targets: Mapping[str, Tensor],
    kept: Sequence[int],
    times: int,
    clean: Embeddings = MappingProxyType({}),
) -> tuple[dict[str, Columns], list[dict[str, Tensor]]]:
    """What `_verdicts` says; of so many judgements the worst for each image and judge, for models that are random."""
    rows, answers = _verdicts(work, images, targets, kept, clean)
    for _ in range(times - 1):
        again, others = _verdicts(work, images, targets, kept, clean)
        for name in work.judges:
            task = work.models[name].task
            rows[name], worse = worse_rows(task, rows[name], again[name])
            for shown, other, row in zip(answers, others, kept, strict=True):
                shown[name] = other[name] if worse[row] else shown[name]
    return rows, answers


def worse_rows(task: Task, rows: Columns, others: Columns) -> tuple[Columns, Tensor]:
    """Of two judgements of the same images the worse one, image by image, and where that is the second, (B,).

    A second head's columns are compared on their own.
    """
    worse = _is_worse(task, rows, others)
    knn = {name for name in rows if name.startswith(KNN)}
    chosen = dict.fromkeys(rows, worse)
    if knn:
        own, other = ({n.removeprefix(KNN): columns[n] for n in knn} for columns in (rows, others))
        label = {"label": rows["label"]} if "label" in rows else {}
        chosen |= dict.fromkeys(knn, _is_worse(task, own | label, other | label))
    return {
        name: torch.where(chosen[name].view(-1, *[1] * (column.ndim - 1)), others[name], column)
        for name, column in rows.items()
    }, worse


def _is_worse(task: Task, rows: Columns, others: Columns) -> Tensor:
    scores, again = task.score(rows), task.score(others)
    return again < scores if task.higher_is_better else again > scores


def _verdicts(
    work: EvaluationSpec, images: Tensor, targets: Mapping[str, Tensor], kept: Sequence[int], clean: Embeddings
) -> tuple[dict[str, Columns], list[dict[str, Tensor]]]:
    """Columns of rows by judging task, and the answers for the images at `kept`; judges of one view share features."""
    rows: dict[str, Columns] = {}
    answers: list[dict[str, Tensor]] = [{} for _ in kept]
    seen: dict[View, Features] = {}
    for name in work.judges:
        model = work.models[name]
        if model.view not in seen:
            with fast_linear():
                seen[model.view] = model.features(images)
        output = _checked(model.answer(seen[model.view], _size(images)), name)
        rows[name] = _columns(model, output, seen[model.view], targets[name])
        if model.view in clean:
            rows[name][DRIFT] = class_cosine(_last_of(model, seen[model.view]), clean[model.view]).cpu()
        for row, shown in zip(kept, answers, strict=True):
            shown[name] = model.task.shown_output(output[row].cpu())
    return rows, answers


@torch.no_grad()
def _embeddings(work: EvaluationSpec, images: Tensor) -> Embeddings:
    """Features of the last layer, by what judges see of images."""
    found: dict[View, Features] = {}
    for name in work.judges:
        model = work.models[name]
        if model.view not in found:
            with fast_linear():
                found[model.view] = _last_of(model, model.features(images))
    return found


def _columns(model: Model, output: Tensor, features: Features, target: Tensor) -> Columns:
    """Columns of rows, with a second head's beside those of the first."""
    columns = _on_cpu(model.task.rows(output, target))
    if model.knn_head is None:
        return columns
    knn = _on_cpu(model.task.rows(model.knn_head(_last_of(model, features), (0, 0)), target))
    return columns | {f"{KNN}{name}": column for name, column in knn.items() if name != "label"}


def _last_of(model: Model, features: Features) -> Features:
    """The last layer of the features a model reads."""
    count = model.view.layers
    widths = FeatureDims(features.cls.shape[1] // count, features.patches.shape[1] // count)
    return last_layers(features, widths, 1)


def _on_cpu(columns: Mapping[str, Tensor]) -> Columns:
    return {name: column.cpu() for name, column in columns.items()}


def _checked(output: Tensor, name: str) -> Tensor:
    """Raises UserError where an output is not finite."""
    if not torch.isfinite(output).all():
        raise UserError(
            f"the {name} model answers NaN or infinity, which would count as broken images; correct the encoder."
        )
    return output


def _kept(
    work: EvaluationSpec,
    position: int,
    row: int,
    batch: Batch,
    attacked: Attacked,
    rows: Mapping[str, Columns],
    answers: dict[str, Tensor],
) -> KeptImage:
    # Copies: a row would hold the whole batch in memory.
    targets = {task: target[row].cpu().clone() for task, target in batch.targets.items()}
    scores = {
        name: float(work.models[name].task.score({c: v[row : row + 1] for c, v in columns.items()}))
        for name, columns in rows.items()
    }
    images = (batch.images[row].cpu().clone(), attacked.images[row].cpu().clone(), attacked.damage[row].clone())
    return KeptImage(position, batch.ids[row], *images, targets, answers, scores)
