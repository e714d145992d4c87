"""Depth judged by its absolute relative error"""

from collections.abc import Mapping
from typing import Any, ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustprobe.core.spec import Display, Statistic
from robustprobe.core.types import AttackLosses, FeatureDims, Features, HeadDesign, LossContext
from robustprobe.tasks import Columns, Head, Task, TaskRecipe, resize


@final
class SoftplusHead(Head):
    """A 1x1 convolution on patch tokens to positive depths in metres."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, 1, 1)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        depth: Tensor = nn.functional.softplus(self.conv(self.norm(features.patches)))
        return resize(depth, size)[:, 0]


def relative_error(depth: Tensor, target: Tensor) -> Tensor:
    """Mean of |prediction - label| / label over pixels with a label, (B,); 0 where there is none."""
    known = (target > 0).flatten(1)
    error = (depth / torch.where(target > 0, target, 1) - 1).abs().flatten(1)
    return torch.where(known, error, 0).sum(1) / known.sum(1).clamp(min=1)


def attack_loss(output: Tensor, context: LossContext) -> Tensor:
    """The error, as attacks call it."""
    return relative_error(output, context.target)


@final
class AbsRel(Task):
    """Labels (B, h, w) in metres with 0 where unknown, outputs metres (B, H, W)."""

    metric: ClassVar = "AbsRel"
    unit: ClassVar = "share"
    higher_is_better: ClassVar = False
    statistics: ClassVar = {"AbsRel": Statistic(kind="mean", columns=("error",))}
    attack_losses = AttackLosses(losses={"relative": attack_loss}, damage=attack_loss)
    display: ClassVar = Display(kind="scalar map", scale=1000, unit="m")
    recipes: ClassVar = {"fast": TaskRecipe(designs=(HeadDesign(pooling="patch"),))}
    output_axes: ClassVar = 3
    output_words: ClassVar = "(B, h, w)"

    def head(self, dims: FeatureDims, design: HeadDesign) -> Head:
        return SoftplusHead(dims.patch)

    def training_loss(self, output: Tensor, target: Tensor) -> Tensor:
        return relative_error(output, target)

    def rows(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        depth = resize(output[:, None], (target.shape[-2], target.shape[-1]))[:, 0]
        constants = torch.linspace(0.5, 10, 39).to(target)
        chance = [relative_error(constant.expand_as(target), target) for constant in constants]
        return {"error": relative_error(depth, target), "constant_errors": torch.stack(chance, 1)}

    def score(self, rows: Mapping[str, Tensor]) -> Tensor:
        return rows["error"].float()

    def chance(self, rows: Columns) -> float | None:
        return float(np.asarray(rows["constant_errors"]).mean(0).min())

    def check_values(self, label: Tensor) -> Tensor:
        depth = label.float()
        if (depth < 0).any():
            raise ValueError(f"a depth of {float(depth.min()):g} m; expected 0 or more")
        return depth

    def example_targets(self, count: int, size: tuple[int, int], generator: torch.Generator | None = None) -> Tensor:
        return 1 + 4 * torch.rand(count, *size, generator=generator)

    def shown_output(self, output: Tensor) -> Tensor:
        return output.clone()

    def picture(self, shown: Tensor) -> NDArray[Any]:
        return (shown * self.display.scale).round().to(torch.int64).numpy().astype(np.uint16)
