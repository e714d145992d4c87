"""Landmark retrieval by the revisited Oxford and Paris protocol: easy, medium and hard, junk ignored; mAP, mP@10"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, ClassVar, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustprobe.core.spec import Display, Statistic
from robustprobe.core.types import (
    AttackLoss,
    AttackLosses,
    EnsembleMember,
    FeatureDims,
    Features,
    HeadDesign,
    LabelSpace,
    LossContext,
    QueryTruth,
)
from robustprobe.losses import retrieval as losses
from robustprobe.metrics.statistics import Columns
from robustprobe.tasks._ranking import (
    EASY,
    HARD,
    JUNK,
    GalleryHead,
    first_items,
    gallery_of,
    revisited,
)
from robustprobe.tasks._recipe import TaskRecipe
from robustprobe.tasks.base import Head, Task, class_labels

TIE = 1e-6
LEVELS: Mapping[str, tuple[int, ...]] = {"medium": (EASY, HARD), "easy": (EASY,), "hard": (HARD,)}
"""What is relevant at each level; the rest of what is no negative is left out of the ranking."""


def _on_medium(loss: losses.RankingLoss) -> AttackLoss:
    """A loss on what is relevant at the level medium; junk counts nowhere."""

    def call(output: Tensor, context: LossContext) -> Tensor:
        relevant = (context.target == EASY) | (context.target == HARD)
        return loss(output, relevant, context.target == 0)

    return call


_SOFT = _on_medium(losses.soft_neighbour)


def _damage(output: Tensor, context: LossContext) -> Tensor:
    """1 - average precision at the level medium, and of equal rankings the loss."""
    precision = revisited(output, context.target, LEVELS["medium"]).average_precision
    return 1 - precision.nan_to_num(1) + TIE * _SOFT(output, context).double().sigmoid()


@final
class Landmarks(Task):
    """Labels (B,): of a query its place among the queries, of a gallery image its place among the images.

    Outputs similarities (B, N) with the gallery. `LabelSpace.queries` says what is relevant to each query; without
    them item i is an easy match of query i, and the next one a hard match.
    """

    hub_task: ClassVar = "image-feature-extraction"
    metric: ClassVar = "mAP medium"
    unit: ClassVar = "share"
    higher_is_better: ClassVar = True
    statistics: ClassVar = {
        **{f"mAP {level}": Statistic(kind="mean", columns=(f"ap_{level}",)) for level in LEVELS},
        **{f"mP@10 {level}": Statistic(kind="mean", columns=(f"precision_10_{level}",)) for level in LEVELS},
    }
    attack_losses = AttackLosses(
        losses={
            "soft-neighbour": _SOFT,
            "mean-similarity": _on_medium(losses.mean_similarity),
            "fast-ap": _on_medium(losses.fast_ap),
        },
        damage=_damage,
        ensemble=tuple(EnsembleMember(name) for name in ("soft-neighbour", "mean-similarity", "fast-ap")),
    )
    display: ClassVar = Display(kind="classes")
    label_axes: ClassVar = 0
    output_axes: ClassVar = 2
    output_words: ClassVar = "(B, N)"
    view: ClassVar = "square"
    trains: ClassVar = False
    nothing_valid: ClassVar = "no image of the gallery is relevant"
    recipes: ClassVar = dict.fromkeys(("fast", "standard", "paper"), TaskRecipe())

    def __init__(self, space: LabelSpace, name: str = "") -> None:
        super().__init__(space, name)
        self.gallery = torch.arange(len(space.classes))

    @cached_property
    def _codes(self) -> Tensor:
        """What every image is to every query, (Q, M) int8."""
        count = len(self.space.classes)
        queries = self.space.queries or tuple(QueryTruth(easy=(i,), hard=((i + 1) % count,)) for i in range(count))
        codes = torch.zeros(len(queries), count, dtype=torch.int8)
        for row, query in zip(codes, queries, strict=True):
            for code, images in ((EASY, query.easy), (HARD, query.hard), (JUNK, query.junk)):
                row[list(images)] = code
        return codes

    def head(self, dims: FeatureDims, design: HeadDesign) -> Head:
        """A gallery of random items."""
        width = dims.cls + (dims.patch if design.pooling == "cls+patch" else 0)
        return GalleryHead(F.normalize(torch.randn(len(self.gallery), width), dim=1), self.gallery, design.pooling)

    def made_head(self, parts: Iterable[tuple[Features, Tensor]], design: HeadDesign) -> Head:
        return gallery_of(parts, design)

    def of_model(self, head: Head) -> "Landmarks":
        bound = Landmarks(self.space, self.name)
        bound.gallery = head.labels if isinstance(head, GalleryHead) else self.gallery
        return bound

    def codes(self, target: Tensor) -> Tensor:
        """What each item of the gallery is to queries (B,), (B, N): 0, `EASY`, `HARD` or `JUNK`."""
        return self._codes[target.cpu()][:, self.gallery.cpu()].to(target.device)

    def training_loss(self, output: Tensor, target: Tensor) -> Tensor:
        return -_SOFT(output, LossContext(self.codes(target), self.space))

    def fit_labels(self, target: Tensor, size: tuple[int, int]) -> Tensor:
        """What each item is to each query, (B, N)."""
        return self.codes(target)

    def rows(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        codes, rows = self.codes(target), {}
        for level, relevant in LEVELS.items():
            found = revisited(output, codes, relevant)
            rows[f"ap_{level}"], rows[f"precision_10_{level}"] = found.average_precision, found.precision_10
            rows[f"random_{level}"] = found.random_precision
        return rows

    def score(self, rows: Mapping[str, Tensor]) -> Tensor:
        return rows["ap_medium"].float()

    def chance(self, rows: Columns) -> float | None:
        """That of a random ranking at the level medium."""
        known = np.asarray(rows["random_medium"], dtype=float)
        known = known[np.isfinite(known)]
        return float(known.mean()) if len(known) else None

    def check_values(self, label: Tensor) -> Tensor:
        return class_labels(label, self.space, ignored=False)

    def example_targets(self, count: int, size: tuple[int, int], generator: torch.Generator | None = None) -> Tensor:
        return torch.randint(0, len(self.space.queries or self.space.classes), (count,), generator=generator)

    @classmethod
    def implied_space(cls, output: Tensor) -> LabelSpace:
        return LabelSpace(classes=tuple(str(index) for index in range(output.shape[1])))

    def shown_output(self, output: Tensor) -> Tensor:
        """Labels and similarities of the first items, (2, 5)."""
        return first_items(output, self.gallery)

    def picture(self, shown: Tensor) -> list[list[Any]]:
        """The first items by name, each with its similarity, or of a query the first one that is relevant."""
        if shown.ndim == 2:
            named = zip(shown[0].tolist(), shown[1].tolist(), strict=True)
            return [[self.space.classes[int(label)], round(min(1.0, max(0.0, near)), 4)] for label, near in named]
        codes = shown if shown.ndim else self.codes(shown[None])[0]
        relevant = ((codes == EASY) | (codes == HARD)).nonzero()
        return [[self.space.classes[int(self.gallery[relevant[0, 0]])], 1.0]] if len(relevant) else [["nothing", 1.0]]
