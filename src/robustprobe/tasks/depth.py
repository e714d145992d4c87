"""Monocular depth with a linear head on patch tokens; RMSE in metres"""

from collections.abc import Mapping
from typing import Any, ClassVar, final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from robustprobe.core.spec import Display, Statistic
from robustprobe.core.sums import image_sums
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
from robustprobe.losses import depth as losses
from robustprobe.metrics.statistics import Columns
from robustprobe.tasks._heads import Head
from robustprobe.tasks._maps import resize
from robustprobe.tasks._recipe import TaskRecipe
from robustprobe.tasks.base import Task, on_labels

BINS = 256
_FLOOR = 0.1


@final
class BinsHead(Head):
    """A 1x1 convolution to 256 depth bins, whose expectation is the depth (DINOv2's linear head).

    Reads patch tokens, or each of them beside CLS; standardised first or not; enlarged before the bins are weighed.
    Weights of the bins are relu(logit) + 0.1, normalised; bins are uniform over the depth range.
    """

    bins: Tensor

    def __init__(self, dims: FeatureDims, space: LabelSpace, design: HeadDesign) -> None:
        super().__init__()
        self.design = design
        width = dims.patch + (dims.cls if design.pooling == "cls+patch" else 0)
        self.norm = nn.BatchNorm2d(width) if design.standardise else nn.Identity()
        self.conv = nn.Conv2d(width, BINS, 1)
        self.register_buffer("bins", torch.linspace(space.min_depth, space.max_depth, BINS))

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        maps = features.patches
        if self.design.pooling == "cls+patch":
            maps = torch.cat([maps, features.cls[:, :, None, None].expand(-1, -1, *maps.shape[-2:])], 1)
        # A 1x1 convolution and bilinear resizing may change places: resizing logits is cheaper.
        logits = self.conv(self.norm(maps))
        logits = resize(logits, (maps.shape[-2] * self.design.upsample, maps.shape[-1] * self.design.upsample))
        weights = F.relu(logits) + _FLOOR
        depth = (weights * self.bins[:, None, None]).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
        return resize(depth, size)[:, 0]


def _damage(output: Tensor, context: LossContext) -> Tensor:
    """The error as it is reported: of depths inside the range of the dataset."""
    return losses.rmse(output.clamp(context.space.min_depth, context.space.max_depth), context.target).double()


LOSSES = AttackLosses(
    losses={
        "rmse": on_labels(losses.rmse),
        "silog": on_labels(losses.scale_invariant_log),
        "log-l1": on_labels(losses.log_l1),
        "abs-rel": on_labels(losses.abs_rel),
        "delta-margin": on_labels(losses.delta_margin),
        "nearer": on_labels(losses.nearer),
        "farther": on_labels(losses.farther),
    },
    damage=_damage,
    black_box="rmse",
    ensemble=(
        EnsembleMember("rmse", "apgd"),
        EnsembleMember("nearer", "staged-apgd"),
        EnsembleMember("rmse", "staged-apgd"),
        EnsembleMember("silog", "staged-apgd"),
        EnsembleMember("farther", "apgd"),
    ),
)
_DESIGN = HeadDesign(pooling="patch")
# 16-bit depth maps hold thousands of values.
FEW_DEPTHS = 512
MOST_SATURATED = 0.05
# Depths of a room or street reach far more of the range they are scored in; of KITTI's pixels, 4 % have one.
FARTHEST = 1000.0
"""Metres; no depth sensor reaches so far."""
LEAST_REACH, LEAST_VALID = 0.15, 0.01
FALLING, MOST_TIMES = -0.3, 3.0
"""Rank correlation and ratio of outputs and labels that no answer in metres has."""
EXAMPLE_UNKNOWN, LARGEST_EXAMPLE = 0.1, 100.0


@final
class Depth(Task):
    """Labels (B, h, w) in metres with 0 where unknown, outputs metres (B, H, W)."""

    hub_task: ClassVar = "depth-estimation"
    metric: ClassVar = "RMSE"
    unit: ClassVar = "m"
    nothing_valid: ClassVar = "no pixel has a depth above 0 and up to max_depth; check the unit (scale) and max_depth"
    higher_is_better: ClassVar = False
    statistics: ClassVar = {
        "RMSE": Statistic(kind="mean", columns=("rmse",)),
        "abs-rel": Statistic(kind="mean", columns=("abs_rel",)),
        "delta-1": Statistic(kind="mean", columns=("delta1",)),
    }
    attack_losses = LOSSES
    attacks: ClassVar = ()
    display: ClassVar = Display(kind="scalar map", scale=1000, unit="m")
    output_axes: ClassVar = 3
    output_words: ClassVar = "(B, h, w)"
    view: ClassVar = "padded"
    recipes: ClassVar = {
        "fast": TaskRecipe(designs=(_DESIGN,)),
        "standard": TaskRecipe(
            learning_rates=(3e-4,),
            betas=(0.9, 0.99),
            batch_size=16,
            steps=38_400,
            warmup=1500,
            augment="flip",
            label_stride=1,
            clip=35.0,
            designs=(_DESIGN,),
        ),
        "paper": TaskRecipe(
            learning_rates=(1e-4,),
            weight_decay=0.01,
            batch_size=128,
            schedule="constant",
            augment="flip",
            gradient_weight=0.5,
            label_stride=1,
            designs=(HeadDesign(1, "cls+patch", False, 4),),
        ),
    }

    def head(self, dims: FeatureDims, design: HeadDesign) -> Head:
        return BinsHead(dims, self.space, design)

    def training_loss(self, output: Tensor, target: Tensor) -> Tensor:
        return losses.scale_invariant_log(output, target)

    def rows(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        depth = resize(output[:, None], (target.shape[-2], target.shape[-1]))[:, 0]
        errors = depth_errors(depth.clamp(self.space.min_depth, self.space.max_depth), target)
        return errors | label_moments(target)

    def score(self, rows: Mapping[str, Tensor]) -> Tensor:
        return rows["rmse"].float()

    def chance(self, rows: Columns) -> float | None:
        """Mean RMSE of the best constant depth: convex in that depth, so a ternary search finds it."""
        mean, square = (np.asarray(rows[name], dtype=float) for name in ("label_mean", "label_square"))
        valid = np.isfinite(mean)
        if not valid.any():
            return None
        mean, square = mean[valid], square[valid]

        def error(depth: float) -> float:
            return float(np.sqrt(np.maximum(square - 2 * depth * mean + depth * depth, 0)).mean())

        low, high = float(mean.min()), float(mean.max())
        while high - low > 1e-6 * max(1.0, high):
            third = (high - low) / 3
            low, high = (low, high - third) if error(low + third) < error(high - third) else (low + third, high)
        return error((low + high) / 2)

    def check_values(self, label: Tensor) -> Tensor:
        """Depths as floating point, 0 where they are not finite or outside the range of the dataset."""
        depth = label if label.is_floating_point() else label.float()
        valid = torch.isfinite(depth) & (depth > self.space.min_depth) & (depth < self.space.max_depth)
        return torch.where(valid, depth, 0)

    def example_targets(self, count: int, size: tuple[int, int], generator: torch.Generator | None = None) -> Tensor:
        share, unknown = (torch.rand(count, *size, generator=generator) for _ in range(2))
        low, high = self.space.min_depth, min(self.space.max_depth, LARGEST_EXAMPLE)
        return torch.where(unknown < EXAMPLE_UNKNOWN, 0, low + (high - low) * (0.1 + 0.8 * share))

    def counted(self, target: Tensor) -> Tensor:
        return target[target != 0]

    def describe_labels(self, found: LabelStatistics) -> str:
        if not len(found.values):
            return "none valid"
        low, high = float(found.values[0]), float(found.values[-1])
        return f"{low:.2f} to {high:.2f} m, {found.used / max(1, found.total):.0%} valid"

    def label_warnings(self, found: LabelStatistics, whole: bool) -> list[str]:
        warnings = []
        largest = float(found.values[-1]) if len(found.values) else 0.0
        if 1 < len(found.values) < FEW_DEPTHS < found.used:
            step = float(found.values.diff().median())
            # Finer steps would not reach so far in 8 bits: near scenes have few depths in whole millimetres too.
            if step > largest / FEW_DEPTHS:
                warnings.append(f"depths are {1000 * step:.0f} mm apart, as if stored in 8 bits once")
        if len(found.values) == 1 < found.used:
            warnings.append(f"every depth is {largest:.3g} m")
        if 0 < largest < LEAST_REACH * self.space.max_depth < float("inf"):
            wanted = f"depths go up to {largest:.3g} m, where up to {self.space.max_depth:g} m is expected"
            warnings.append(f"{wanted}: check the unit (scale) and max_depth")
        if largest > FARTHEST:
            warnings.append(f"depths go up to {largest:.4g} m: check the unit; millimetres are divided by 1000")
        if 0 < found.used < LEAST_VALID * found.total:
            share = f"{found.used / found.total:.2%} of the pixels have a depth up to {self.space.max_depth:g} m"
            warnings.append(f"{share}: check the unit (scale) and max_depth")
        return warnings

    @classmethod
    def implied_space(cls, output: Tensor) -> LabelSpace:
        return LabelSpace(min_depth=0.0, max_depth=float("inf"))

    def output_checks(self, output: Tensor) -> list[SanityCheck]:
        ends = (output <= self.space.min_depth) | (output >= self.space.max_depth)
        share = float(ends.double().mean())
        means = "" if share <= MOST_SATURATED else ": they have no gradient, and the attack is blind there"
        text = f"{share:.1%} of depths are at their limits{means}"
        return [SanityCheck("saturated depth", share, share <= MOST_SATURATED, text)]

    def likely_fault(self, output: Tensor, target: Tensor) -> str:
        depth = resize(output[:, None].float(), (target.shape[-2], target.shape[-1]))[:, 0]
        valid = target > 0
        found, wanted = depth[valid], target[valid].float()
        if torch.corrcoef(torch.stack([_ranks(found), _ranks(wanted)]))[0, 1] < FALLING:
            return "it falls where depth rises, as inverse depth (disparity) does; give depth in metres"
        ratio = float((found / wanted).median())
        if not 1 / MOST_TIMES <= ratio <= MOST_TIMES:
            return f"it is {ratio:.3g} times the labels in the median; give both in metres"
        return super().likely_fault(output, target)

    def shown_output(self, output: Tensor) -> Tensor:
        return output.clone()

    def picture(self, shown: Tensor) -> NDArray[Any]:
        return (shown * self.display.scale).round().to(torch.int64).numpy().astype(np.uint16)


def _ranks(values: Tensor) -> Tensor:
    return values.argsort().argsort().double()


def label_moments(target: Tensor) -> dict[str, Tensor]:
    """Per image mean (m) and mean square (m^2) of valid depths, each (B,), from which a constant's RMSE follows."""
    valid = (target > 0).flatten(1)
    depth, count = torch.where(valid, target.flatten(1), 0).double(), valid.sum(1)
    return {"label_mean": image_sums(depth) / count, "label_square": image_sums(depth.square()) / count}


def depth_errors(depth: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Per image RMSE (m), absolute relative error and share of pixels within a factor 1.25, each (B,).

    Pixels with target <= 0 have no valid depth and count nowhere; an image without any gives NaN.
    """
    valid = (target > 0).flatten(1)
    p, t = depth.flatten(1).double(), torch.where(target > 0, target, 1).flatten(1).double()
    count = valid.sum(1)

    def mean(values: Tensor) -> Tensor:
        return image_sums(torch.where(valid, values, 0)) / count

    ratio = torch.maximum(p / t, t / p)
    return {
        "rmse": mean((p - t).square()).sqrt(),
        "abs_rel": mean((p - t).abs() / t),
        "delta1": mean((ratio < 1.25).double()),
    }
