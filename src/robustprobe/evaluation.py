"""The loop: adversarial images are made once, and every head judges them. Touches no file, prints nothing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustprobe.attacks import Attack, Attacked, Victim, load_attack
from robustprobe.datasets import Dataset
from robustprobe.datasets._base import batches
from robustprobe.encoders import Encoder
from robustprobe.errors import UserError
from robustprobe.fast_linear import fast_linear
from robustprobe.proxies import layout_heads
from robustprobe.spec import AttackSpec
from robustprobe.tasks import Model
from robustprobe.tasks._base import fit_labels
from robustprobe.types import Batch, Features


class Work(NamedTuple):
    """One attack at ascending eps on listed images of one dataset, judged by every model of one encoder.

    `made_for` is the task whose model is attacked, empty where the attack sees no head.
    """

    encoder: Encoder
    models: Mapping[str, Model]
    dataset: Dataset
    attacks: tuple[AttackSpec, ...]
    made_for: str
    judges: list[str]
    batch_size: int
    precision: str
    device: torch.device


class Judgement(NamedTuple):
    """One batch under one eps: images, what the attack made of them, size of the perturbation (B,), and by judging task
    the columns of rows in fp32, the same after rounding to 8 bits, and the outputs. All on the CPU.
    """

    batch: Batch
    attacked: Attacked
    size: Tensor
    rows: dict[str, dict[str, Tensor]]
    rounded: dict[str, dict[str, Tensor]]
    outputs: dict[str, Tensor]


def evaluate(work: Work) -> Iterator[tuple[Judgement, ...]]:
    """Attack and judge every image of the work, batch by batch, in the order of the dataset; one judgement an eps."""
    attacks = [load_attack(spec) for spec in work.attacks]
    function, first = attacked_function(work), 0
    for batch in batches(work.dataset, work.batch_size):
        images = batch.images.to(work.device)
        targets = {task: target.to(work.device) for task, target in batch.targets.items()}
        seen = victim(work, function, targets, range(first, first + len(images)))
        previous, judgements = None, []
        for attack in attacks:
            attacked = attack.run(seen, images, batch.ids, previous if attack.spec.warm else None)
            judgements.append(judge(work, attack, batch, images, targets, attacked))
            previous = attacked.images
        first += len(batch.ids)
        yield tuple(judgements)


def attacked_function(work: Work) -> Callable[[Tensor], Any]:
    """The model or encoder that is attacked, in the precision of the work."""
    function = work.models[work.made_for] if work.made_for else work.encoder
    return reduced(function, work.precision, work.device.type)


def victim(
    work: Work, function: Callable[[Tensor], Any], targets: Mapping[str, Tensor], places: Sequence[int]
) -> Victim:
    """What the attack may see of the images at `places`; the goal of an embedding is the next image of the dataset."""
    if work.made_for:
        task = work.models[work.made_for].task
        labels = fit_labels(targets[work.made_for], work.dataset.size)
        return Victim(function, labels, task.space, task.criteria, task.name)
    goals = None
    if any(spec.objective.startswith("towards-") for spec in work.attacks):
        following = [work.dataset[(place + 1) % len(work.dataset)].image for place in places]
        goals = torch.stack(following).to(work.device)
    layers, proxies = partial(_layers, work), partial(layout_heads, work.encoder, device=work.device)
    return Victim(function, layers=layers, goals=goals, proxies=proxies)


def _layers(work: Work, images: Tensor, which: tuple[int, ...]) -> list[Features]:
    with torch.autocast(work.device.type, dtype=torch.bfloat16, enabled=work.precision == "bf16"):
        found = work.encoder.layers(images, which)
    return [Features(*(a.float() for a in features)) for features in found]


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
    work: Work, attack: Attack, batch: Batch, images: Tensor, targets: Mapping[str, Tensor], attacked: Attacked
) -> Judgement:
    """Every judge's verdict on adversarial images, in fp32; features are computed once for all judges."""
    adversarial = attacked.images
    with fast_linear():
        features = work.encoder(adversarial)
        rounded_features = work.encoder((adversarial * 255).round() / 255)
    rows, rounded, outputs = {}, {}, {}
    for name in work.judges:
        model = work.models[name]
        output = checked(model.head(features, work.dataset.size), name)
        outputs[name] = output.cpu()
        rows[name] = to_cpu(model.task.rows(output, targets[name]))
        rounded[name] = to_cpu(model.task.rows(model.head(rounded_features, work.dataset.size), targets[name]))
    size = attack.threat.size(adversarial - images).cpu()
    return Judgement(batch, attacked._replace(images=adversarial.cpu()), size, rows, rounded, outputs)


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
