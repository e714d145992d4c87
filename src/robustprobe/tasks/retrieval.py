"""Image retrieval by the cosine of embeddings, train images being the gallery; mAP"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

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
)
from robustprobe.losses import retrieval as losses
from robustprobe.metrics.statistics import Columns
from robustprobe.tasks._ranking import GalleryHead, first_items, gallery_of, ranked
from robustprobe.tasks._recipe import TaskRecipe
from robustprobe.tasks.base import Head, Task, class_labels, commonest_class, missing_classes, on_labels

TIE = 1e-6
"""What the loss adds to the damage at most: less than one item's move between rankings that differ."""


def _damage(output: Tensor, context: LossContext) -> Tensor:
    """1 - average precision, and of equal rankings the loss."""
    precision = ranked(output, context.target).average_precision
    loss = losses.soft_neighbour(output, context.target).double()
    return 1 - precision.nan_to_num(1) + TIE * loss.sigmoid()


LOSSES = AttackLosses(
    losses={
        "soft-neighbour": on_labels(losses.soft_neighbour),
        "mean-similarity": on_labels(losses.mean_similarity),
        "fast-ap": on_labels(losses.fast_ap),
    },
    damage=_damage,
    ensemble=(
        EnsembleMember("soft-neighbour"),
        EnsembleMember("mean-similarity"),
        EnsembleMember("fast-ap"),
    ),
)


@final
class Retrieval(Task):
    """Labels (B,), outputs similarities (B, N) with the items of a gallery; items of a query's label are relevant.

    Without a gallery, item i is the only one with label i.
    """

    hub_task: ClassVar = "image-feature-extraction"
    metric: ClassVar = "mAP"
    unit: ClassVar = "share"
    higher_is_better: ClassVar = True
    statistics: ClassVar = {
        "mAP": Statistic(kind="mean", columns=("average_precision",)),
        "recall@1": Statistic(kind="proportion", columns=("hit_1",)),
        "recall@5": Statistic(kind="proportion", columns=("hit_5",)),
    }
    attack_losses = LOSSES
    display: ClassVar = Display(kind="classes")
    label_axes: ClassVar = 0
    output_axes: ClassVar = 2
    output_words: ClassVar = "(B, N)"
    view: ClassVar = "square"
    labels_of: ClassVar = "classification"
    trains: ClassVar = False
    nothing_valid: ClassVar = "no item of the gallery is relevant"
    recipes: ClassVar = dict.fromkeys(("fast", "standard", "paper"), TaskRecipe())

    def __init__(self, space: LabelSpace, name: str = "") -> None:
        super().__init__(space, name)
        self.gallery = torch.arange(len(space.classes))

    def head(self, dims: FeatureDims, design: HeadDesign) -> Head:
        """A gallery of one random item of each class."""
        width = dims.cls + (dims.patch if design.pooling == "cls+patch" else 0)
        return GalleryHead(F.normalize(torch.randn(len(self.gallery), width), dim=1), self.gallery, design.pooling)

    def made_head(self, parts: Iterable[tuple[Features, Tensor]], design: HeadDesign) -> Head:
        return gallery_of(parts, design)

    def of_model(self, head: Head) -> "Retrieval":
        bound = Retrieval(self.space, self.name)
        bound.gallery = head.labels if isinstance(head, GalleryHead) else self.gallery
        return bound

    def training_loss(self, output: Tensor, target: Tensor) -> Tensor:
        return -losses.soft_neighbour(output, self.relevant(target))

    def relevant(self, target: Tensor) -> Tensor:
        """Which items are relevant to queries of these labels (B,), as (B, N)."""
        return target[:, None] == self.gallery.to(target.device)

    def fit_labels(self, target: Tensor, size: tuple[int, int]) -> Tensor:
        """The items that are relevant, (B, N)."""
        return self.relevant(target)

    def rows(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        return ranked(output, self.relevant(target))._asdict()

    def score(self, rows: Mapping[str, Tensor]) -> Tensor:
        return rows["average_precision"].float()

    def chance(self, rows: Columns) -> float | None:
        """That of a random ranking."""
        known = np.asarray(rows["random_precision"], dtype=float)
        known = known[np.isfinite(known)]
        return float(known.mean()) if len(known) else None

    def check_values(self, label: Tensor) -> Tensor:
        return class_labels(label, self.space, ignored=False)

    def example_targets(self, count: int, size: tuple[int, int], generator: torch.Generator | None = None) -> Tensor:
        return torch.randint(0, len(self.space.classes), (count,), generator=generator)

    def describe_labels(self, found: LabelStatistics) -> str:
        return f"{len(found.values)} of {len(self.space.classes)} classes{commonest_class(found, self.space)}"

    def label_warnings(self, found: LabelStatistics, whole: bool) -> list[str]:
        return missing_classes(found, self.space, self.name) if whole else []

    @classmethod
    def implied_space(cls, output: Tensor) -> LabelSpace:
        return LabelSpace(classes=tuple(str(index) for index in range(output.shape[1])))

    def shown_output(self, output: Tensor) -> Tensor:
        """Labels and similarities of the first items, (2, 5)."""
        return first_items(output, self.gallery)

    def picture(self, shown: Tensor) -> list[list[Any]]:
        """The classes of the first items, each with its similarity, or the class of a label."""
        if shown.ndim == 2:
            named = zip(shown[0].tolist(), shown[1].tolist(), strict=True)
            return [[self.space.classes[int(label)], round(min(1.0, max(0.0, near)), 4)] for label, near in named]
        label = self.gallery[shown.nonzero()[0, 0]] if shown.ndim else shown
        return [[self.space.classes[int(label)], 1.0]]
