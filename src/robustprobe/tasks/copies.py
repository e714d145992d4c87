"""Copy detection by the cosine of embeddings, at a threshold of 1 % false positives; share of copies that are found"""

from collections.abc import Iterable
from typing import ClassVar, Self, cast, final

import torch
from torch import Tensor

from robustprobe.core.errors import UserError
from robustprobe.core.spec import Statistic
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
from robustprobe.losses import copies as losses
from robustprobe.tasks._heads import Head
from robustprobe.tasks._ranking import GalleryHead, embedding
from robustprobe.tasks._ranking_task import RankingTask
from robustprobe.tasks.base import on_labels

FALSE_POSITIVES = 0.01
"""The share of images that are no copies for which some item may be above the threshold."""
LOST_SHARE = 0.5
"""Of the copies, what may be without an original among the train images taken without a warning."""
SOME = 256
CANDIDATES = 10
"""The most similar items of each query, which take part in the ranking over all queries."""


@final
class ThresholdHead(Head):
    """Cosine similarities (B, N) with the items of a gallery, and the `threshold` above which two images are one."""

    threshold: Tensor

    def __init__(self, gallery: GalleryHead, threshold: Tensor) -> None:
        super().__init__()
        self.gallery = gallery
        self.register_buffer("threshold", threshold)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        return cast(Tensor, self.gallery(features, size))


def threshold_of(nearest: Tensor) -> Tensor:
    """The lowest threshold that at most 1 % of the similarities (M,) of wrong matches are above, (); at most 1."""
    allowed = int(FALSE_POSITIVES * len(nearest))
    return nearest.sort(descending=True).values[allowed].clamp(max=1) if len(nearest) else nearest.new_tensor(1.0)


def _attack_losses(threshold: float) -> AttackLosses:
    """The losses of a search at a threshold."""

    def right(output: Tensor, context: LossContext) -> Tensor:
        """Whether a copy is found, or an image that is none matches nothing."""
        relevant = context.target
        found = losses.own_similarity(output, relevant) > threshold
        return torch.where(relevant.any(1), found, losses.other_similarity(output, relevant) <= threshold)

    return AttackLosses(
        losses={"similarity": on_labels(losses.mistake), "chosen": on_labels(losses.chosen_similarity)},
        damage=on_labels(losses.mistake),
        damages={"chosen": on_labels(losses.chosen_similarity)},
        success=lambda output, context: ~right(output, context),
        score=lambda output, context: right(output, context).double(),
        ensemble=(EnsembleMember("similarity"), EnsembleMember("similarity", "square", share=8)),
    )


def _copies(found: LabelStatistics) -> tuple[int, int]:
    """How many labels are of copies, and how many of these have their original in train."""
    copies = {label: number for label, number in found.counts.items() if label}
    return sum(copies.values()), sum(number for label, number in copies.items() if label in (found.in_train or ()))


@final
class CopyDetection(RankingTask):
    """Labels (B,): 0 of an image that is no copy, else which original it is a copy of; outputs similarities (B, N).

    A copy is found where its similarity with its original is above the threshold; queries without an original in the
    gallery have no score. The threshold is set on train images with label 0: the largest similarity of each with an
    item is a false positive, of which 1 % are above it. Without such images the items themselves stand in for them,
    each among those of other labels. Without a gallery, item i is the only one with label i and the threshold is 0.
    """

    metric: ClassVar = "copies found"
    statistics: ClassVar = {
        "copies found": Statistic(kind="proportion", columns=("found",)),
        "wrong matches": Statistic(kind="proportion", columns=("wrong_match",)),
        "chosen matches": Statistic(kind="proportion", columns=("chosen_match",)),
        "micro AP": Statistic(kind="micro_ap", columns=("near_similarity", "near_right", "found")),
    }
    attack_losses = _attack_losses(0.0)
    score_column: ClassVar = "found"
    random_column: ClassVar = "random_found"
    nothing_valid: ClassVar = "no image has an original in the gallery"
    chance_answer: ClassVar = "one random item for 1 % of the queries"

    def __init__(self, space: LabelSpace, name: str = "", threshold: float = 0.0) -> None:
        super().__init__(space, name)
        self.threshold = threshold
        self.attack_losses = _attack_losses(threshold)

    def head(self, dims: FeatureDims, design: HeadDesign) -> Head:
        return ThresholdHead(self.random_gallery(dims, design), torch.tensor(0.0))

    def made_head(self, parts: Iterable[tuple[Features, Tensor]], design: HeadDesign) -> Head:
        found = [(embedding(features, design.pooling), labels) for features, labels in parts]
        shown, labels = (torch.cat(column) for column in zip(*found, strict=True))
        background, kept = labels == 0, labels != 0
        items, of_items = shown[kept], labels[kept]
        strangers, theirs = (shown[background], labels[background]) if background.any() else (items, of_items)
        if not len(items):
            raise UserError(
                f"none of {len(labels)} train images is an original that a copy could be of; take more (--train-limit)."
            )
        gallery = GalleryHead(items, of_items, design.pooling)
        nearest = [
            torch.where(own[:, None] == of_items, losses.FAR, part @ items.T).amax(1)
            for part, own in zip(strangers.split(SOME), theirs.split(SOME), strict=True)
        ]
        return ThresholdHead(gallery, threshold_of(torch.cat(nearest)))

    def of_model(self, head: Head) -> Self:
        if not isinstance(head, ThresholdHead):
            return self
        bound = type(self)(self.space, self.name, float(head.threshold))
        bound.gallery = head.gallery.labels
        return bound

    def relevant(self, target: Tensor) -> Tensor:
        """What each query is a copy of, (B, N)."""
        return (target[:, None] == self.gallery.to(target.device)) & (target != 0)[:, None]

    def fit_labels(self, target: Tensor, size: tuple[int, int]) -> Tensor:
        """What each query is a copy of, (B, N)."""
        return self.relevant(target)

    def rows(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        relevant = self.relevant(target)
        copy, own = relevant.any(1), losses.own_similarity(output, relevant)
        nothing = torch.full_like(own, torch.nan)
        near, which = output.topk(min(CANDIDATES, output.shape[1]), dim=1)
        return {
            "found": torch.where(copy, (own > self.threshold).to(own), nothing),
            "wrong_match": (losses.other_similarity(output, relevant) > self.threshold).to(own),
            "chosen_match": (losses.chosen_similarity(output, relevant) > self.threshold).to(own),
            "own_similarity": torch.where(copy, own, nothing),
            "near_similarity": near,
            "near_right": relevant.gather(1, which).to(own),
            "random_found": torch.where(copy, FALSE_POSITIVES / output.shape[1], nothing),
        }

    def example_targets(self, count: int, size: tuple[int, int], generator: torch.Generator | None = None) -> Tensor:
        return torch.randint(1, len(self.space.classes), (count,), generator=generator)

    def describe_labels(self, found: LabelStatistics) -> str:
        copies, here = _copies(found)
        if found.in_train is None:
            return f"{copies} of {found.total} with an original"
        text = f"{here} of {found.total} have an original in train"
        return f"{text}, {copies - here} lost theirs to the train limit and have no score" if copies > here else text

    def label_warnings(self, found: LabelStatistics, whole: bool) -> list[str]:
        copies, here = _copies(found)
        if found.in_train is None or copies - here <= LOST_SHARE * copies:
            return []
        return [
            f"{copies - here} of {copies} copies have no original among the train images taken, and no score: take "
            "more (--train-limit)"
        ]

    def label_name(self, label: Tensor) -> str:
        if label.ndim:
            return self.space.classes[int(self.gallery[label.nonzero()[0, 0]]) if label.any() else 0]
        return self.space.classes[int(label)]
