"""Image classification with a linear head; top-1 accuracy"""

from collections.abc import Mapping
from typing import ClassVar, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustprobe.core.types import AttackLosses, FeatureDims, Features, HeadDesign, LossContext
from robustprobe.losses import classification as losses
from robustprobe.metrics.intervals import Estimate, wilson
from robustprobe.tasks.base import Columns, Head, Task, on_labels

TEMPERATURE = 0.07
KNN_METRIC = "k-NN top-1"


@final
class LinearHead(Head):
    """One linear layer on CLS, or on CLS and the mean patch token, standardised first or not."""

    def __init__(self, widths: FeatureDims, classes: int, design: HeadDesign) -> None:
        super().__init__()
        self.pooling = design.pooling
        width = widths.cls + (widths.patch if design.pooling == "cls+patch" else 0)
        self.norm = nn.BatchNorm1d(width, affine=False) if design.standardise else nn.Identity()
        self.linear = nn.Linear(width, classes)
        if not design.standardise:
            nn.init.normal_(self.linear.weight, std=0.01)
            nn.init.zeros_(self.linear.bias)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        pooled = features.cls
        if self.pooling == "cls+patch":
            pooled = torch.cat([pooled, features.patches.mean((2, 3))], dim=1)
        return cast(Tensor, self.linear(self.norm(pooled)))


@final
class KnnHead(Head):
    """Votes of the most similar train images by CLS (Wu et al. 2018; DINO's k-NN): nothing is learnt.

    Each of the `count` nearest by cosine adds exp(cosine / 0.07) to its class. `bank` (N, D) has rows of length 1.
    """

    bank: Tensor
    labels: Tensor

    def __init__(self, bank: Tensor, labels: Tensor, classes: int, count: int) -> None:
        super().__init__()
        self.classes, self.count = classes, min(count, len(bank))
        self.register_buffer("bank", bank)
        self.register_buffer("labels", labels)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        near, which = (F.normalize(features.cls, dim=1) @ self.bank.T).topk(self.count, dim=1)
        votes = near.new_zeros(len(near), self.classes)
        return votes.scatter_add_(1, self.labels[which], (near / TEMPERATURE).exp())


def _targeted_dlr(output: Tensor, aim: LossContext) -> Tensor:
    return losses.targeted_dlr(output, aim.target, cast(Tensor, aim.goal))


def _targeted_ce(output: Tensor, aim: LossContext) -> Tensor:
    return losses.targeted_cross_entropy(output, cast(Tensor, aim.goal))


def _fooled(output: Tensor, aim: LossContext) -> Tensor:
    return output.argmax(1) != aim.target


def _harm(output: Tensor, aim: LossContext) -> Tensor:
    """Fooling comes first, the cross-entropy second: loss / (1 + loss) grows with the loss and stays below 1."""
    loss = losses.cross_entropy(output, aim.target).double()
    return _fooled(output, aim).double() + loss / (1 + loss)


@final
class Classification(Task):
    """Labels (B,), outputs logits (B, C)."""

    metric: ClassVar = "top-1"
    unit: ClassVar = "share"
    higher_is_better: ClassVar = True
    attack_losses: ClassVar = AttackLosses(
        losses={
            "ce": on_labels(losses.cross_entropy),
            "dlr": on_labels(losses.dlr),
            "margin": on_labels(losses.margin),
            "targeted-dlr": _targeted_dlr,
            "targeted-ce": _targeted_ce,
        },
        damage=_harm,
        success=_fooled,
        targeted=frozenset({"targeted-dlr", "targeted-ce"}),
    )

    def head(self, widths: FeatureDims, design: HeadDesign) -> Head:
        return LinearHead(widths, len(self.space.classes), design)

    def training_loss(self, output: Tensor, target: Tensor) -> Tensor:
        return losses.cross_entropy(output, target)

    def rows(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        prediction = output.argmax(1)
        return {"correct": prediction == target, "prediction": prediction, "label": target}

    def score(self, rows: Mapping[str, Tensor]) -> Tensor:
        return rows["correct"].float()

    def estimates(self, rows: Columns) -> dict[str, Estimate]:
        names = {self.metric: "correct", KNN_METRIC: "knn_correct"}
        columns = {name: rows[column] for name, column in names.items() if column in rows}
        return {name: wilson(int(correct.sum()), len(correct)) for name, correct in columns.items()}
