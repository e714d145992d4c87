"""Correspondence: the most similar patch in another view of the scene, one view attacked; share near the right place"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Self, final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
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
    LabelStatistics,
    LossContext,
)
from robustprobe.losses import correspondence as losses
from robustprobe.metrics.statistics import Columns
from robustprobe.tasks._heads import Head
from robustprobe.tasks._recipe import TaskRecipe
from robustprobe.tasks.base import Task

TIE = 1e-6
DRAWN = 8
"""Pixels of the side of a patch in pictures."""
UNSEEN_GREY = 90
EXAMPLE_UNSEEN, EXAMPLE_MOVE = 0.3, 0.3


@final
class ViewHead(Head):
    """Patch tokens of length 1, (B, D, h, w), beside those of other views (R, D, h, w) and their numbers (R,)."""

    views: Tensor
    numbers: Tensor

    def __init__(self, views: Tensor, numbers: Tensor) -> None:
        super().__init__()
        self.register_buffer("views", views)
        self.register_buffer("numbers", numbers)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        return F.normalize(features.patches, dim=1)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        self.views, self.numbers = state_dict[f"{prefix}views"], state_dict[f"{prefix}numbers"]


def _matches(output: Tensor, target: Tensor, head: ViewHead | None) -> losses.Matches:
    """How patches (B, D, h, w) match those of the views of a head that labels (B, 3, H, W) name; without a head their
    own.
    """
    grid = F.interpolate(target, size=output.shape[-2:], mode="nearest-exact")
    seen, other = grid[:, 2] > 0, output
    if head is not None:
        which = target[:, 2].flatten(1).amax(1).long()[:, None] == head.numbers.to(target.device)
        other = head.views[which.int().argmax(1).to(head.views.device)].to(output)
        seen = seen & which.any(1)[:, None, None]
    return losses.patch_matches(output, other, grid[:, :2], seen)


def _attack_losses(matches: Callable[[Tensor, Tensor], losses.Matches]) -> AttackLosses:
    """The losses of matches of outputs and labels."""

    def on_matches(loss: Callable[[losses.Matches], Tensor]) -> AttackLoss:
        return lambda output, context: loss(matches(output, context.target))

    soft = on_matches(losses.soft_mistake)

    def damage(output: Tensor, context: LossContext) -> Tensor:
        # Of equally many mistakes the loss decides.
        wrong = 1 - losses.correct(matches(output, context.target)).nan_to_num(1)
        return wrong + TIE * soft(output, context).double().sigmoid()

    return AttackLosses(
        losses={"soft-neighbour": soft, "mean-similarity": on_matches(losses.mean_mistake)},
        damage=damage,
        score=on_matches(losses.correct),
        ensemble=(EnsembleMember("soft-neighbour"), EnsembleMember("mean-similarity")),
    )


@final
class Correspondence(Task):
    """Labels (B, 3, h, w): where each pixel is in the other view, x and y from 0 to 1, and the number of that view;
    number 0 for pixels that are not seen there. Outputs are patch tokens (B, D, h, w) of length 1.

    After the correspondence of Probe3D (El Banani et al., CVPR 2024): nearest neighbours of frozen patch features.
    The other views are the train images; a view that is not among them counts nowhere. Without any, each image is its
    own other view.
    """

    metric: ClassVar = "PCK@0.1"
    unit: ClassVar = "share"
    higher_is_better: ClassVar = True
    statistics: ClassVar = {
        "PCK@0.1": Statistic(kind="ratio", columns=("right_10", "seen")),
        "PCK@0.2": Statistic(kind="ratio", columns=("right_20", "seen")),
        "PCK@0.1 at best": Statistic(kind="ratio", columns=("best_10", "seen")),
    }
    attack_losses = _attack_losses(lambda output, target: _matches(output, target, None))
    display: ClassVar = Display(kind="colours")
    label_axes: ClassVar = 3
    output_words: ClassVar = "(B, D, h, w) of patches"
    patch_outputs: ClassVar = True
    view: ClassVar = "square"
    trains: ClassVar = False
    nothing_valid: ClassVar = "no pixel is seen in another view"
    chance_answer: ClassVar = "a random patch"
    recipes: ClassVar = dict.fromkeys(("fast", "standard", "paper"), TaskRecipe(designs=(HeadDesign(pooling="patch"),)))

    def __init__(self, space: LabelSpace, name: str = "", head: ViewHead | None = None) -> None:
        super().__init__(space, name)
        self._head = head
        self.attack_losses = _attack_losses(self.matches)

    def head(self, dims: FeatureDims, design: HeadDesign) -> Head:
        return ViewHead(torch.zeros(0, dims.patch, 1, 1), torch.zeros(0, dtype=torch.int64))

    def made_head(self, parts: Iterable[tuple[Features, Tensor]], design: HeadDesign) -> Head:
        found = [(F.normalize(f.patches, dim=1), label[:, 2].flatten(1).amax(1).long()) for f, label in parts]
        views, numbers = (torch.cat(column) for column in zip(*found, strict=True))
        return ViewHead(views, numbers)

    def of_model(self, head: Head) -> Self:
        own = head if isinstance(head, ViewHead) and len(head.views) else None
        return type(self)(self.space, self.name, own)

    def matches(self, output: Tensor, target: Tensor) -> losses.Matches:
        """How patches (B, D, h, w) match those of the other views that labels (B, 3, H, W) name."""
        return _matches(output, target, self._head)

    def training_loss(self, output: Tensor, target: Tensor) -> Tensor:
        return losses.soft_mistake(self.matches(output, target))

    def rows(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        matches = self.matches(output, target)
        seen = matches.seen.sum(1, keepdim=True).double()
        shares = {
            "right_10": losses.correct(matches),
            "right_20": losses.correct(matches, 2 * losses.NEAR),
            "best_10": losses.best_share(matches),
            "random_10": losses.random_share(matches),
        }
        # A column for each of one kind of point: a ratio is one of sums over kinds.
        return {name: (share[:, None] * seen).nan_to_num(0) for name, share in shares.items()} | {"seen": seen}

    def score(self, rows: Mapping[str, Tensor]) -> Tensor:
        return (rows["right_10"] / rows["seen"])[:, 0].float()

    def chance(self, rows: Columns) -> float | None:
        seen = float(np.sum(rows["seen"]))
        return float(np.sum(rows["random_10"])) / seen if seen else None

    def check_values(self, label: Tensor) -> Tensor:
        points = label.float()
        wrong = ~((points[..., :2, :, :] >= 0) & (points[..., :2, :, :] <= 1))
        if wrong.any():
            raise ValueError(f"a place of {float(points[..., :2, :, :][wrong][0]):.3g}; expected 0 to 1")
        if (points[..., 2, :, :] < 0).any() or not torch.isfinite(points).all():
            raise ValueError("a number of a view below 0 or not finite; expected 1, 2, ..., or 0 where nothing is seen")
        return points

    def fit_labels(self, target: Tensor, size: tuple[int, int]) -> Tensor:
        """As they are: they are read at the centres of patches."""
        return target

    def example_targets(self, count: int, size: tuple[int, int], generator: torch.Generator | None = None) -> Tensor:
        own = losses.centres(*size).T.reshape(1, 2, *size)
        points = (own + EXAMPLE_MOVE * (torch.rand(count, 2, *size, generator=generator) - 0.5)).clamp(0, 1)
        seen = torch.rand(count, 1, *size, generator=generator) >= EXAMPLE_UNSEEN
        numbers = torch.arange(1, count + 1)[:, None, None, None] * seen
        return torch.cat([points * seen, numbers.float()], 1)

    def counted(self, target: Tensor) -> Tensor:
        return target[:, target[2] > 0].flatten()

    def describe_labels(self, found: LabelStatistics) -> str:
        return f"{found.used / max(1, found.total):.0%} seen in the other view"

    def shown_output(self, output: Tensor) -> Tensor:
        """Four numbers of each patch, (4, h, w): a fixed random projection of its features."""
        mix = torch.randn(4, len(output), generator=torch.Generator().manual_seed(0))
        return torch.einsum("cd,dhw->chw", mix.to(output), output)

    def picture(self, shown: Tensor) -> NDArray[Any]:
        """Of patches similar colours where features are similar; of a label the place in the other view, red for x and
        green for y, and grey where nothing is seen there.
        """
        if len(shown) == 4:
            colours = (shown[:3].sigmoid() * 255).repeat_interleave(DRAWN, 1).repeat_interleave(DRAWN, 2)
        else:
            colours = torch.cat([shown[:2] * 255, torch.zeros_like(shown[:1])])
            colours = torch.where(shown[2] > 0, colours, UNSEEN_GREY)
        return colours.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
