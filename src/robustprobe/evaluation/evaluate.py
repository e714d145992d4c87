"""The loop: adversarial images are made once, and every head judges them. Touches no file, prints nothing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustprobe.attacks import Attack, Attacked, Victim, load_attack
from robustprobe.core.errors import UserError
from robustprobe.core.fast_linear import fast_linear
from robustprobe.core.resize import resized
from robustprobe.core.spec import AttackSpec
from robustprobe.core.types import Batch, FeatureDims, Features
from robustprobe.core.views import View, as_one, last_layers
from robustprobe.datasets import Dataset
from robustprobe.datasets.base import batches
from robustprobe.encoders import Encoder
from robustprobe.evaluation.batch_invariant import BatchInvariantEncoder, BatchInvariantHead
from robustprobe.probing.surrogate_heads import fit_surrogate_heads
from robustprobe.tasks import Head, Model, Task


class EvaluationSpec(NamedTuple):
    """One attack at ascending eps on listed images of one dataset, judged by every model of one encoder.

    `target_task` is the task whose model is attacked, empty where the attack sees no head.
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

    @property
    def tasks(self) -> dict[str, Task]:
        """The task of each model."""
        return {name: model.task for name, model in self.models.items()}

    @property
    def view(self) -> View:
        """How the encoder alone is shown the images: as the first judge's model, its last layer only."""
        return replace(self.models[self.judges[0]].view, layers=1)


class JudgedBatch(NamedTuple):
    """One batch under one eps: images and their places in the dataset, what the attack made of them, size of the
    perturbation (B,), and by judging task the columns of rows in fp32, the same after rounding to 8 bits, and the
    outputs. All on the CPU.
    """

    batch: Batch
    positions: Sequence[int]
    attacked: Attacked
    size: Tensor
    rows: dict[str, dict[str, Tensor]]
    rounded: dict[str, dict[str, Tensor]]
    outputs: dict[str, Tensor]


class Placed(NamedTuple):
    """A batch, and the places of its images in the dataset."""

    batch: Batch
    positions: Sequence[int]


def evaluate(work: EvaluationSpec, positions: Sequence[int] | None = None) -> Iterator[tuple[JudgedBatch, ...]]:
    """Attack and judge images of the work, batch by batch; one judgement an eps.

    Args:
        places: which images of the dataset, and in which order; all, in its own order, by default.
    """
    attacks = [load_attack(spec) for spec in work.attacks]
    function, first = attacked_function(work), 0
    positions = range(len(work.dataset)) if positions is None else positions
    for batch in batches(work.dataset, work.batch_size, order=positions):
        images = batch.images.to(work.device)
        targets = {task: target.to(work.device) for task, target in batch.targets.items()}
        size = (images.shape[-2], images.shape[-1])
        here = positions[first : first + len(images)]
        seen = victim(work, function, targets, here, size)
        previous, judgements = None, []
        for attack in attacks:
            attacked = attack.run(seen, images, batch.ids, previous if attack.spec.warm else None)
            judgements.append(judge(work, attack, Placed(batch, here), images, targets, attacked))
            previous = attacked.images
        first += len(batch.ids)
        yield tuple(judgements)


def attacked_function(work: EvaluationSpec) -> Callable[[Tensor], Any]:
    """The model, or the encoder as the models see through it, that is attacked, in the precision of the work."""
    function = work.models[work.target_task] if work.target_task else partial(work.view.embedding, work.encoder)
    return reduced(function, work.precision, work.device.type)


def victim(
    work: EvaluationSpec,
    function: Callable[[Tensor], Any],
    targets: Mapping[str, Tensor],
    positions: Sequence[int],
    size: tuple[int, int],
) -> Victim:
    """What the attack may see of the images at `positions`; the goal of an embedding is the dataset's next image."""
    if work.target_task:
        model, target = work.models[work.target_task], targets[work.target_task]
        task = model.task
        labels = task.fit_labels(target, model.view.output_size(size))
        return Victim(function, labels, task.space, task.attack_losses, task.name)
    goals = None
    if any(spec.objective.startswith("towards-") for spec in work.attacks):
        following = [work.dataset[(position + 1) % len(work.dataset)].image for position in positions]
        goals = torch.stack([resized(image, size) for image in following]).to(work.device)
    return Victim(function, layers=partial(_layers, work), goals=goals, surrogate_heads=partial(_surrogate_heads, work))


def _layers(work: EvaluationSpec, images: Tensor, which: tuple[int, ...]) -> list[Features]:
    with torch.autocast(work.device.type, dtype=torch.bfloat16, enabled=work.precision == "bf16"):
        found = work.encoder.layers(work.view.cut(images), which)
    return [as_one(Features(*(a.float() for a in features)), len(images)) for features in found]


def _surrogate_heads(work: EvaluationSpec, size: tuple[int, int]) -> list[Head]:
    """Heads for place and colour; fitted on the encoder as it is, since fits have batches of their own."""
    steady = isinstance(work.encoder, BatchInvariantEncoder)
    encoder = work.encoder.whole if isinstance(work.encoder, BatchInvariantEncoder) else work.encoder
    heads = fit_surrogate_heads(encoder, work.view.part_size(size), device=work.device)
    return [BatchInvariantHead(head) for head in heads] if steady else heads


def reduced(function: Callable[[Tensor], Any], precision: str, device: str) -> Callable[[Tensor], Any]:
    """The function under autocast where `precision` is bf16; answers come back in fp32."""
    if precision == "fp32":
        return function

    def call(images: Tensor) -> Any:
        with torch.autocast(device, dtype=torch.bfloat16):
            answer = function(images)
        return Features(*(a.float() for a in answer)) if isinstance(answer, Features) else answer.float()

    return call


@torch.no_grad()
def judge(
    work: EvaluationSpec,
    attack: Attack,
    placed: Placed,
    images: Tensor,
    targets: Mapping[str, Tensor],
    attacked: Attacked,
) -> JudgedBatch:
    """Every judge's verdict on adversarial images, in fp32; judges with one view share its features."""
    adversarial, size = attacked.images, (images.shape[-2], images.shape[-1])
    rows: dict[str, dict[str, Tensor]] = {}
    rounded: dict[str, dict[str, Tensor]] = {}
    outputs = {}
    for made, whole in ((adversarial, True), ((adversarial * 255).round() / 255, False)):
        seen: dict[View, Features] = {}
        for name in work.judges:
            model = work.models[name]
            if model.view not in seen:
                with fast_linear():
                    seen[model.view] = model.features(made)
            output = checked(model.answer(seen[model.view], size), name)
            (rows if whole else rounded)[name] = verdict(model, output, seen[model.view], targets[name])
            if whole:
                outputs[name] = output.cpu()
    moved = attack.threat.size(adversarial - images).cpu()
    return JudgedBatch(*placed, attacked._replace(images=adversarial.cpu()), moved, rows, rounded, outputs)


def verdict(model: Model, output: Tensor, features: Features, target: Tensor) -> dict[str, Tensor]:
    """Columns of rows, with a second head's beside those of the first."""
    columns = to_cpu(model.task.rows(output, target))
    if model.knn_head is None:
        return columns
    knn = to_cpu(model.task.rows(model.knn_head(last_of(model, features), (0, 0)), target))
    return columns | {f"knn_{name}": column for name, column in knn.items() if name != "label"}


def last_of(model: Model, features: Features) -> Features:
    """The last layer of the features a model reads."""
    count = model.view.layers
    widths = FeatureDims(features.cls.shape[1] // count, features.patches.shape[1] // count)
    return last_layers(features, widths, 1)


def to_cpu(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Columns on the CPU."""
    return {name: column.cpu() for name, column in columns.items()}


def checked(output: Tensor, name: str) -> Tensor:
    """Raises UserError where an output is not finite."""
    if not torch.isfinite(output).all():
        raise UserError(
            f"the {name} model answers NaN or infinity, which would count as broken images; mend the encoder."
        )
    return output
