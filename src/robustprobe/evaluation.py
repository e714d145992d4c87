"""The loop: adversarial images are made once, and every head judges them. Touches no file, prints nothing."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustprobe.attacks import Attack, Victim, load_attack
from robustprobe.datasets import Dataset
from robustprobe.datasets._base import batches
from robustprobe.encoders import Encoder
from robustprobe.errors import UserError
from robustprobe.spec import AttackSpec
from robustprobe.tasks import Model
from robustprobe.tasks._base import fit_labels
from robustprobe.types import Batch, Features


class Work(NamedTuple):
    """One attack on listed images of one dataset, judged by every model of one encoder."""

    encoder: Encoder
    models: Mapping[str, Model]
    dataset: Dataset
    attack: AttackSpec
    judges: list[str]
    batch_size: int
    precision: str
    device: torch.device


class Judgement(NamedTuple):
    """One batch: images, adversarial images, size of the perturbation (B,), and by judging task the columns of rows
    in fp32, the same after rounding to 8 bits, and the outputs. All on the CPU.
    """

    batch: Batch
    adversarial: Tensor
    size: Tensor
    rows: dict[str, dict[str, Tensor]]
    rounded: dict[str, dict[str, Tensor]]
    outputs: dict[str, Tensor]


def evaluate(work: Work) -> Iterator[Judgement]:
    """Attack and judge every image of the work, batch by batch, in the order of the dataset."""
    attack = load_attack(work.attack)
    for batch in batches(work.dataset, work.batch_size):
        images = batch.images.to(work.device)
        targets = {task: target.to(work.device) for task, target in batch.targets.items()}
        adversarial = attack(victim(work, attack, targets), images, batch.ids)
        yield judge(work, attack, batch, images, targets, adversarial)


def victim(work: Work, attack: Attack, targets: Mapping[str, Tensor]) -> Victim:
    """What the attack may see, in the precision of the work."""
    if attack.sees in work.models:
        model = work.models[attack.sees]
        return Victim(reduced(model, work), fit_labels(targets[attack.sees], work.dataset.size), model.task.space)
    return Victim(reduced(work.encoder, work))


def reduced(function: Callable[[Tensor], Any], work: Work) -> Callable[[Tensor], Any]:
    """The function under autocast where the work asks for bf16; answers come back in fp32."""
    if work.precision == "fp32":
        return function

    def call(images: Tensor) -> Any:
        with torch.autocast(work.device.type, dtype=torch.bfloat16):
            answer = function(images)
        return Features(*(a.float() for a in answer)) if isinstance(answer, Features) else answer.float()

    return call


@torch.no_grad()
def judge(
    work: Work, attack: Attack, batch: Batch, images: Tensor, targets: Mapping[str, Tensor], adversarial: Tensor
) -> Judgement:
    """Every judge's verdict on adversarial images, in fp32; features are computed once for all judges."""
    features = work.encoder(adversarial)
    rounded_features = work.encoder((adversarial * 255).round() / 255)
    rows, rounded, outputs = {}, {}, {}
    for name in work.judges:
        model = work.models[name]
        output = checked(model.head(features, work.dataset.size), name)
        outputs[name] = output.cpu()
        rows[name] = to_cpu(model.task.rows(output, targets[name]))
        rounded[name] = to_cpu(model.task.rows(model.head(rounded_features, work.dataset.size), targets[name]))
    return Judgement(batch, adversarial.cpu(), attack.threat.size(adversarial - images).cpu(), rows, rounded, outputs)


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
