"""Image classification with a linear head; top-1 accuracy"""

from collections.abc import Mapping
from typing import Any, ClassVar, cast, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustprobe.core.spec import Display, Statistic
from robustprobe.core.types import (
    AttackLosses,
    EnsembleMember,
    FeatureDims,
    Features,
    HeadDesign,
    LabelSpace,
    LabelStatistics,
    LossContext,
    SanityCheck,
)
from robustprobe.losses import classification as losses
from robustprobe.metrics.statistics import Columns
from robustprobe.tasks._class_labels import (
    class_labels,
    found_classes,
    likeliest,
    lone_class,
    looks_like_probabilities,
    missing_classes,
    several_classes,
    sigmoid_doubts,
)
from robustprobe.tasks._heads import Head
from robustprobe.tasks._recipe import TaskRecipe
from robustprobe.tasks.base import Task, on_labels

TEMPERATURE = 0.07
KNN_METRIC = "k-NN top-1"


@final
class LinearHead(Head):
    """One linear layer on CLS, or on CLS and the mean patch token, standardised first or not."""

    def __init__(self, dims: FeatureDims, classes: int, design: HeadDesign) -> None:
        super().__init__()
        self.pooling = design.pooling
        width = dims.cls + (dims.patch if design.pooling == "cls+patch" else 0)
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


@final
class ZeroShotHead(Head):
    """Scale times the cosine of the projected class token with each text embedding, plus a bias: CLIP's logits.

    Args:
        text: embeddings (C, D) of texts, one for each class.
        projection: (D, width of the class token); None: the class token as it is.
        pool: makes of patch tokens (B, N, width) what stands for the class token (B, width), as in SigLIP.
    """

    task: ClassVar = "classification"
    text: Tensor
    projection: Tensor | None

    def __init__(
        self, text: Tensor, projection: Tensor | None, scale: float, bias: float = 0.0, pool: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.pool = pool
        self.scale, self.bias = scale, bias
        self.register_buffer("text", F.normalize(text, dim=1))
        self.register_buffer("projection", projection)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        cls = features.cls if self.pool is None else self.pool(features.patches.flatten(2).mT)
        seen = cls if self.projection is None else cls @ self.projection.T
        return self.scale * (F.normalize(seen, dim=1) @ self.text.T) + self.bias


def _targeted_dlr(output: Tensor, context: LossContext) -> Tensor:
    return losses.targeted_dlr(output, context.target, cast(Tensor, context.goal))


def _targeted_ce(output: Tensor, context: LossContext) -> Tensor:
    return losses.targeted_cross_entropy(output, cast(Tensor, context.goal))


def _fooled(output: Tensor, context: LossContext) -> Tensor:
    return output.argmax(1) != context.target


def _damage(output: Tensor, context: LossContext) -> Tensor:
    """Fooling comes first, the cross-entropy second: loss / (1 + loss) grows with the loss and stays below 1."""
    loss = losses.cross_entropy(output, context.target).double()
    return _fooled(output, context).double() + loss / (1 + loss)


LOSSES = AttackLosses(
    losses={
        "ce": on_labels(losses.cross_entropy),
        "dlr": on_labels(losses.dlr),
        "margin": on_labels(losses.margin),
        "targeted-dlr": _targeted_dlr,
        "targeted-ce": _targeted_ce,
    },
    damage=_damage,
    score=lambda output, context: (~_fooled(output, context)).double(),
    success=_fooled,
    targeted=frozenset({"targeted-dlr", "targeted-ce"}),
    black_box="margin",
    ensemble=(
        EnsembleMember("ce", "apgd"),
        EnsembleMember("targeted-dlr", "apgd", runs=4),
        EnsembleMember("margin", "square", share=8),
    ),
)

# DINOv2's sweep, for batches of 256.
SWEEP = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
_DESIGNS = tuple(HeadDesign(layers, pooling, False) for layers in (1, 4) for pooling in ("cls", "cls+patch"))


@final
class Classification(Task):
    """Labels (B,), outputs logits (B, C)."""

    hub_task: ClassVar = "image-classification"
    metric: ClassVar = "top-1"
    unit: ClassVar = "share"
    higher_is_better: ClassVar = True
    statistics: ClassVar = {
        "top-1": Statistic(kind="proportion", columns=("correct",)),
        KNN_METRIC: Statistic(kind="proportion", columns=("knn_correct",)),
    }
    attack_losses = LOSSES
    attacks: ClassVar = ()
    display: ClassVar = Display(kind="classes")
    label_axes: ClassVar = 0
    output_axes: ClassVar = 2
    output_words: ClassVar = "(B, C)"
    view: ClassVar = "square"
    has_knn_head: ClassVar = True
    recipes: ClassVar = {
        "fast": TaskRecipe(),
        "standard": TaskRecipe(
            optimiser="sgd",
            learning_rates=tuple(rate / 2 for rate in SWEEP),
            weight_decay=0,
            batch_size=128,
            epochs=10,
            augment="resized-crop",
            designs=_DESIGNS,
        ),
        "paper": TaskRecipe(
            optimiser="adam",
            learning_rates=(0.5,),
            weight_decay=0,
            batch_size=128,
            epochs=5,
            schedule="constant",
            augment="pad-crop",
            designs=(HeadDesign(1, "cls", False),),
        ),
    }

    def __init__(self, space: LabelSpace, name: str = "") -> None:
        super().__init__(space, name)
        members = tuple(_fitting(member, len(space.classes)) for member in LOSSES.ensemble)
        self.attack_losses = LOSSES._replace(ensemble=members)

    def head(self, dims: FeatureDims, design: HeadDesign) -> Head:
        return LinearHead(dims, len(self.space.classes), design)

    def knn_head(self, bank: Tensor, labels: Tensor, count: int) -> Head:
        return KnnHead(bank, labels, len(self.space.classes), count)

    def training_loss(self, output: Tensor, target: Tensor) -> Tensor:
        return losses.cross_entropy(output, target)

    def rows(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        prediction = output.argmax(1)
        return {"correct": prediction == target, "prediction": prediction, "label": target}

    def score(self, rows: Mapping[str, Tensor]) -> Tensor:
        return rows["correct"].float()

    def chance(self, rows: Columns) -> float | None:
        counts = np.unique(rows["label"], return_counts=True)[1]
        return float(counts.max() / counts.sum())

    def check_values(self, label: Tensor) -> Tensor:
        return class_labels(label, self.space, ignored=False)

    def example_targets(self, count: int, size: tuple[int, int], generator: torch.Generator | None = None) -> Tensor:
        return torch.randint(0, len(self.space.classes), (count,), generator=generator)

    def describe_labels(self, found: LabelStatistics) -> str:
        return found_classes(found, self.space)

    def label_warnings(self, found: LabelStatistics, whole: bool) -> list[str]:
        return lone_class(found, self.space) + (missing_classes(found, self.space, self.name) if whole else [])

    @classmethod
    def implied_space(cls, output: Tensor) -> LabelSpace:
        return several_classes(output)

    def answer_doubts(self, output: Tensor) -> list[str]:
        return sigmoid_doubts(output)

    def output_checks(self, output: Tensor) -> list[SanityCheck]:
        return [looks_like_probabilities(output)]

    def shown_output(self, output: Tensor) -> Tensor:
        return output.clone()

    def picture(self, shown: Tensor) -> list[list[Any]]:
        if shown.ndim:
            return likeliest(shown, self.space.classes)
        return [[self.space.classes[int(shown)], 1.0]]


LEAST_FOR_DLR = 4


def _fitting(member: EnsembleMember, classes: int) -> EnsembleMember:
    """A member for so many classes: no more goals than there are wrong classes, and no DLR below four classes."""
    few = member.loss == "targeted-dlr" and classes < LEAST_FOR_DLR
    return member._replace(loss="targeted-ce" if few else member.loss, runs=min(member.runs, max(1, classes - 1)))
