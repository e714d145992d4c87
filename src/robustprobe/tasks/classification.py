"""Image classification with a linear head; top-1 accuracy"""

from collections.abc import Mapping
from typing import ClassVar, cast, final

import torch
from torch import Tensor, nn

from robustprobe import losses
from robustprobe.stats import Estimate, wilson
from robustprobe.tasks._base import Columns, Head, Task
from robustprobe.types import Features, Widths


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


@final
class Classification(Task):
    """Labels (B,), outputs logits (B, C)."""

    metric: ClassVar = "top-1"
    unit: ClassVar = "share"
    higher_is_better: ClassVar = True

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
