"""What tasks share whose answers are similarities with the items of a gallery."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Self, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustprobe.core.spec import Display
from robustprobe.core.types import (
    AttackLoss,
    AttackLosses,
    EnsembleMember,
    FeatureDims,
    Features,
    HeadDesign,
    LabelSpace,
    LossContext,
)
from robustprobe.losses import retrieval as losses
from robustprobe.metrics.statistics import Columns
from robustprobe.tasks._class_labels import class_labels
from robustprobe.tasks._heads import Head
from robustprobe.tasks._ranking import GalleryHead, embedding_width, first_items, gallery_of
from robustprobe.tasks._recipe import TaskRecipe
from robustprobe.tasks.base import Task

TIE = 1e-6
"""What the loss adds to the damage at most: far below the differences of scores that are shown."""


def ranking_losses(
    relevance: Callable[[Tensor], tuple[Tensor, Tensor | None]], precision: Callable[[Tensor, Tensor], Tensor]
) -> AttackLosses:
    """The losses of rankings, the default one first, and 1 - average precision as the damage.

    Args:
        relevance: from fitted labels (B, N) which items are relevant, and which are irrelevant; None: all others.
        precision: the average precision (B,) of similarities (B, N) and fitted labels; NaN where nothing is relevant.
    """

    def on_items(loss: losses.RankingLoss) -> AttackLoss:
        return lambda output, context: loss(output, *relevance(context.target))

    soft_neighbour, chosen = on_items(losses.soft_neighbour), on_items(losses.chosen)

    def damage(output: Tensor, context: LossContext) -> Tensor:
        # Of equal rankings the loss decides.
        tie = TIE * soft_neighbour(output, context).double().sigmoid()
        return 1 - precision(output, context.target).nan_to_num(1) + tie

    def score(output: Tensor, context: LossContext) -> Tensor:
        return precision(output, context.target)

    def chosen_damage(output: Tensor, context: LossContext) -> Tensor:
        tie = TIE * chosen(output, context).double().sigmoid()
        return 1 / losses.chosen_rank(output, *relevance(context.target)) + tie

    named = {
        "soft-neighbour": soft_neighbour,
        "mean-similarity": on_items(losses.mean_similarity),
        "fast-ap": on_items(losses.fast_ap),
    }
    members = tuple(EnsembleMember(name) for name in named)
    aimed = {"chosen": chosen}
    return AttackLosses(
        losses=named | aimed, damage=damage, ensemble=members, score=score, damages={"chosen": chosen_damage}
    )


class RankingTask(Task, ABC):
    """A task whose head is a gallery: outputs are the similarities (B, N) of queries with its items; nothing is learnt.

    Derived classes say what is relevant to a query. A model's task is bound to its gallery by `of_model`.
    """

    score_column: ClassVar[str]
    """The column of rows that is the score of a query."""
    random_column: ClassVar[str]
    """The column of rows that holds what a random ranking scores in the mean."""
    hub_task: ClassVar = "image-feature-extraction"
    unit: ClassVar = "share"
    higher_is_better: ClassVar = True
    display: ClassVar = Display(kind="classes")
    label_axes: ClassVar = 0
    output_axes: ClassVar = 2
    output_words: ClassVar = "(B, N)"
    view: ClassVar = "square"
    trains: ClassVar = False
    chance_answer: ClassVar = "a random ranking"
    recipes: ClassVar = dict.fromkeys(("fast", "standard", "paper"), TaskRecipe())

    def __init__(self, space: LabelSpace, name: str = "") -> None:
        super().__init__(space, name)
        self.gallery = torch.arange(len(space.classes))

    @final
    def random_gallery(self, dims: FeatureDims, design: HeadDesign) -> GalleryHead:
        """A gallery of one random item of each class."""
        items = torch.randn(len(self.gallery), embedding_width(dims, design.pooling))
        return GalleryHead(F.normalize(items, dim=1), self.gallery, design.pooling)

    def head(self, dims: FeatureDims, design: HeadDesign) -> Head:
        return self.random_gallery(dims, design)

    def made_head(self, parts: Iterable[tuple[Features, Tensor]], design: HeadDesign) -> Head:
        return gallery_of(parts, design)

    def of_model(self, head: Head) -> Self:
        bound = type(self)(self.space, self.name)
        bound.gallery = head.labels if isinstance(head, GalleryHead) else self.gallery
        return bound

    def training_loss(self, output: Tensor, target: Tensor) -> Tensor:
        fitted = self.fit_labels(target, (1, 1))
        return -self.attack_losses.losses[self.attack_losses.default](output, LossContext(fitted, self.space))

    @final
    def score(self, rows: Mapping[str, Tensor]) -> Tensor:
        return rows[self.score_column].float()

    @final
    def chance(self, rows: Columns) -> float | None:
        """That of a random ranking."""
        known = np.asarray(rows[self.random_column], dtype=float)
        known = known[np.isfinite(known)]
        return float(known.mean()) if len(known) else None

    @final
    def check_values(self, label: Tensor) -> Tensor:
        return class_labels(label, self.space, ignored=False)

    @classmethod
    def implied_space(cls, output: Tensor) -> LabelSpace:
        return LabelSpace(classes=tuple(str(index) for index in range(output.shape[1])))

    @final
    def shown_output(self, output: Tensor) -> Tensor:
        """Labels and similarities of the first items, (2, 5)."""
        return first_items(output, self.gallery)

    @final
    def picture(self, shown: Tensor) -> list[list[Any]]:
        """The first items by name, each with its similarity; of a label the first item that is relevant."""
        if shown.ndim == 2:
            named = zip(shown[0].tolist(), shown[1].tolist(), strict=True)
            return [[self.space.classes[int(label)], round(min(1.0, max(0.0, near)), 4)] for label, near in named]
        return [[self.label_name(shown), 1.0]]

    @abstractmethod
    def label_name(self, label: Tensor) -> str:
        """What a label stands for, in a word: one of an image as it is, (), or fitted, (N,)."""
