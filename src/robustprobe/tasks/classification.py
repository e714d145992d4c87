"""Image classification with a linear head; top-1 accuracy"""

from collections.abc import Mapping
from typing import ClassVar, cast, final

import torch
from torch import Tensor, nn

from robustprobe.losses import classification as losses
from robustprobe.stats import Estimate, wilson
from robustprobe.tasks._base import Columns, Head, Task, on_labels
from robustprobe.types import Aim, Criteria, Features, Widths


@final
class LinearHead(Head):
    """Standardisation and one linear layer on CLS, or on CLS and the mean patch token (`pooling="cls+patch"`)."""

    def __init__(self, widths: Widths, classes: int, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling
        width = widths.cls + (widths.patch if pooling == "cls+patch" else 0)
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.linear = nn.Linear(width, classes)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        pooled = features.cls
        if self.pooling == "cls+patch":
            pooled = torch.cat([pooled, features.patches.mean((2, 3))], dim=1)
        return cast(Tensor, self.linear(self.norm(pooled)))


def _targeted_dlr(output: Tensor, aim: Aim) -> Tensor:
    return losses.targeted_dlr(output, aim.target, cast(Tensor, aim.goal))


def _targeted_ce(output: Tensor, aim: Aim) -> Tensor:
    return losses.targeted_cross_entropy(output, cast(Tensor, aim.goal))


def _fooled(output: Tensor, aim: Aim) -> Tensor:
    return output.argmax(1) != aim.target


def _harm(output: Tensor, aim: Aim) -> Tensor:
    """Fooling comes first, the cross-entropy second: loss / (1 + loss) grows with the loss and stays below 1."""
    loss = losses.cross_entropy(output, aim.target).double()
    return _fooled(output, aim).double() + loss / (1 + loss)


@final
class Classification(Task):
    """Labels (B,), outputs logits (B, C)."""

    metric: ClassVar = "top-1"
    unit: ClassVar = "share"
    higher_is_better: ClassVar = True
    criteria: ClassVar = Criteria(
        losses={
            "ce": on_labels(losses.cross_entropy),
            "dlr": on_labels(losses.dlr),
            "margin": on_labels(losses.margin),
            "targeted-dlr": _targeted_dlr,
            "targeted-ce": _targeted_ce,
        },
        harm=_harm,
        broken=_fooled,
        targeted=frozenset({"targeted-dlr", "targeted-ce"}),
    )

    def head(self, widths: Widths, pooling: str) -> Head:
        return LinearHead(widths, len(self.space.classes), pooling)

    def training_loss(self, output: Tensor, target: Tensor) -> Tensor:
        return losses.cross_entropy(output, target)

    def rows(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        prediction = output.argmax(1)
        return {"correct": prediction == target, "prediction": prediction, "label": target}

    def score(self, rows: Mapping[str, Tensor]) -> Tensor:
        return rows["correct"].float()

    def estimates(self, rows: Columns) -> dict[str, Estimate]:
        correct = rows["correct"]
        return {self.metric: wilson(int(correct.sum()), len(correct))}
