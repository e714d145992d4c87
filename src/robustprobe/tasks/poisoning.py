"""Gallery poisoning: one image planted in the gallery; share of searches that return it among their first items"""

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
from robustprobe.losses import poisoning as losses
from robustprobe.tasks._heads import Head
from robustprobe.tasks._ranking import GalleryHead, embedding
from robustprobe.tasks._ranking_task import TIE, RankingTask

FIRST, FIRST_SHARE = 10, 0.1
"""So many items a search returns, and at most this share of the gallery."""
ROUNDED = 1e-6
"""Margins that count as none: an encoder with one embedding for all images returns the planted one everywhere."""
WIDTH = 0.1
"""Of the sigmoid in the loss, as a share of the mean distance from the last returned item to the middle one."""
PARTS = 3
"""Train images are parted evenly: items of the gallery, searches that the attack knows, and those that judge it."""


@final
class PoisonedHead(Head):
    """Margins (B, Q): the cosine with each search minus that of the last item that this search returns.

    Args:
        searches: the embeddings of the searches as items, those that the attack knows first, and their labels.
        last: the cosine (Q,) of the last returned item.
        known: how many of the searches the attack knows, ().
        width: of the sigmoid in the loss, ().
    """

    last: Tensor
    known: Tensor
    width: Tensor

    def __init__(self, searches: GalleryHead, last: Tensor, known: Tensor, width: Tensor) -> None:
        super().__init__()
        self.searches = searches
        self.register_buffer("last", last)
        self.register_buffer("known", known)
        self.register_buffer("width", width)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        return cast(Tensor, self.searches(features, size)) - self.last

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        self.last, self.known, self.width = (state_dict[f"{prefix}{name}"] for name in ("last", "known", "width"))


def returned(margin: Tensor) -> Tensor:
    """The share of searches (B,) that return an item of these margins (B, Q); a tie counts."""
    return (margin >= -ROUNDED).double().mean(1)


def _attack_losses(known: int | None, width: float) -> AttackLosses:
    """The losses on the searches that the attack knows, None: all of them."""

    def soft_count(output: Tensor, context: LossContext) -> Tensor:
        return losses.soft_count(output[:, :known], width)

    def damage(output: Tensor, context: LossContext) -> Tensor:
        # Of equal counts the loss decides.
        return returned(output[:, :known]) + TIE * soft_count(output, context).double()

    return AttackLosses(
        losses={
            "soft-count": soft_count,
            "mean-margin": lambda output, context: losses.mean_margin(output[:, :known]),
        },
        damage=damage,
        score=lambda output, context: 1 - returned(output[:, :known]),
        ensemble=(EnsembleMember("soft-count"), EnsembleMember("mean-margin")),
    )


@final
class Poisoning(RankingTask):
    """Outputs are margins (B, Q) of images that are planted one at a time; labels (B,) play no part.

    A search returns its first ten items, of galleries below a hundred a tenth. Scored are searches that the attack does
    not know. Without a gallery, it knows all of them.
    """

    metric: ClassVar = "poisoned searches"
    higher_is_better: ClassVar = False
    statistics: ClassVar = {
        "poisoned searches": Statistic(kind="mean", columns=("returned",)),
        "poisoned known searches": Statistic(kind="mean", columns=("returned_known",)),
    }
    attack_losses = _attack_losses(None, WIDTH)
    score_column: ClassVar = "returned"
    random_column: ClassVar = "every_search"
    output_words: ClassVar = "(B, Q)"
    labels_of: ClassVar = "retrieval"
    chance_answer: ClassVar = "an image that every search returns"

    def __init__(self, space: LabelSpace, name: str = "", known: int = 0, width: float = WIDTH) -> None:
        super().__init__(space, name)
        self.known = known
        self.attack_losses = _attack_losses(known or None, width)

    def head(self, dims: FeatureDims, design: HeadDesign) -> Head:
        searches = self.random_gallery(dims, design)
        return PoisonedHead(searches, torch.zeros(len(searches.items)), torch.tensor(0), torch.tensor(WIDTH))

    def made_head(self, parts: Iterable[tuple[Features, Tensor]], design: HeadDesign) -> Head:
        found = [(embedding(features, design.pooling), labels) for features, labels in parts]
        shown, labels = (torch.cat(column) for column in zip(*found, strict=True))
        if len(shown) < PARTS:
            raise UserError(f"{len(shown)} train images make no gallery with searches; take more (--train-limit).")
        order = torch.randperm(len(shown), generator=torch.Generator().manual_seed(0)).to(shown.device)
        count = len(shown) // PARTS
        items, asked = shown[order[:count]], order[count:]
        similarity = shown[asked] @ items.T
        last = similarity.topk(max(1, min(FIRST, int(FIRST_SHARE * count))), dim=1).values[:, -1]
        width = WIDTH * (last - similarity.median(1).values).mean().clamp(min=ROUNDED)
        searches = GalleryHead(shown[asked], labels[asked], design.pooling)
        return PoisonedHead(searches, last, torch.tensor(count).to(last.device), width)

    def of_model(self, head: Head) -> Self:
        if not isinstance(head, PoisonedHead):
            return self
        bound = type(self)(self.space, self.name, int(head.known), float(head.width))
        bound.gallery = head.searches.labels
        return bound

    def rows(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {
            "returned": returned(output[:, self.known :]),
            "returned_known": returned(output[:, : self.known or None]),
            "every_search": torch.ones(len(output), dtype=torch.float64, device=output.device),
        }

    def example_targets(self, count: int, size: tuple[int, int], generator: torch.Generator | None = None) -> Tensor:
        return torch.randint(0, len(self.space.classes), (count,), generator=generator)

    def describe_labels(self, found: LabelStatistics) -> str:
        return "labels that play no part"

    def label_name(self, label: Tensor) -> str:
        return self.space.classes[int(label)]
