"""Monocular depth with a linear head on patch tokens; RMSE in metres"""

from collections.abc import Mapping
from typing import ClassVar, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustprobe.core.sums import image_sums
from robustprobe.core.types import AttackLosses, FeatureDims, Features, HeadDesign, LabelSpace, LossContext
from robustprobe.losses import depth as losses
from robustprobe.metrics.intervals import Estimate, bootstrap
from robustprobe.tasks.base import Columns, Head, Task, mean_over_images, on_labels, resize

BINS = 256
_FLOOR = 0.1


@final
class BinsHead(Head):
    """A 1x1 convolution to 256 depth bins, whose expectation is the depth (DINOv2's linear head).

    Reads patch tokens, or each of them beside CLS; standardised first or not; enlarged before the bins are weighed.
    Weights of the bins are relu(logit) + 0.1, normalised; bins are uniform over the depth range.
    """

    bins: Tensor

    def __init__(self, widths: FeatureDims, space: LabelSpace, design: HeadDesign) -> None:
        super().__init__()
        self.design = design
        width = widths.patch + (widths.cls if design.pooling == "cls+patch" else 0)
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


def _harm(output: Tensor, aim: LossContext) -> Tensor:
    """The error as it is reported: of depths inside the range of the dataset."""
    return losses.rmse(output.clamp(aim.space.min_depth, aim.space.max_depth), aim.target).double()


@final
class Depth(Task):
    """Labels (B, h, w) in metres with 0 where unknown, outputs metres (B, H, W)."""

    metric: ClassVar = "RMSE"
    unit: ClassVar = "m"
    higher_is_better: ClassVar = False
    attack_losses: ClassVar = AttackLosses(
        losses={
            "rmse": on_labels(losses.rmse),
            "silog": on_labels(losses.scale_invariant_log),
            "log-l1": on_labels(losses.log_l1),
            "abs-rel": on_labels(losses.abs_rel),
            "delta-margin": on_labels(losses.delta_margin),
            "nearer": on_labels(losses.nearer),
            "farther": on_labels(losses.farther),
        },
        damage=_harm,
    )

    def head(self, widths: FeatureDims, design: HeadDesign) -> Head:
        return BinsHead(widths, self.space, design)

    def training_loss(self, output: Tensor, target: Tensor) -> Tensor:
        return losses.scale_invariant_log(output, target)

    def rows(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        depth = resize(output[:, None], (target.shape[-2], target.shape[-1]))[:, 0]
        return depth_errors(depth.clamp(self.space.min_depth, self.space.max_depth), target)

    def score(self, rows: Mapping[str, Tensor]) -> Tensor:
        return rows["rmse"].float()

    def estimates(self, rows: Columns) -> dict[str, Estimate]:
        names = {self.metric: "rmse", "abs-rel": "abs_rel", "delta-1": "delta1"}
        return {name: _mean(rows[column]) for name, column in names.items()}


def _mean(values: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> Estimate:
    counted = np.isfinite(values)
    return bootstrap({"value": np.where(counted, values, 0), "counted": counted}, mean_over_images)


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
