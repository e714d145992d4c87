"""Surface normals with a linear head on patch tokens; mean angular error in degrees"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, final

import numpy as np
import torch
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
    LabelStatistics,
    LossContext,
)
from robustprobe.losses import normals as losses
from robustprobe.metrics.statistics import Columns
from robustprobe.tasks._heads import Head
from robustprobe.tasks._maps import resize
from robustprobe.tasks._recipe import TaskRecipe
from robustprobe.tasks.base import Task, on_labels

CONSTANTS = 64
UNKNOWN_GREY = 128
LENGTH_TOLERANCE = 0.05
EXAMPLE_UNKNOWN = 0.1
_DESIGN = HeadDesign(pooling="patch")


@final
class NormalsHead(Head):
    """BatchNorm and a 1x1 convolution on patch tokens to three channels, upsampled bilinearly to the image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, 3, 1)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        return resize(self.conv(self.norm(features.patches)), size)


def _damage(output: Tensor, context: LossContext) -> Tensor:
    """The error as it is reported: the mean angle in degrees."""
    return torch.rad2deg(losses.angular(output, context.target).double())


@final
class Normals(Task):
    """Labels (B, 3, h, w) unit vectors with zeros where unknown, outputs (B, 3, H, W) of any length.

    Metrics as in Fouhey et al. (ICCV 2013): mean angular error, and the share of pixels below 11.25 and 30 degrees. The
    level of chance is that of the best of 64 constant directions that face the camera.
    """

    metric: ClassVar = "angular error"
    unit: ClassVar = "\N{DEGREE SIGN}"
    higher_is_better: ClassVar = False
    statistics: ClassVar = {
        "angular error": Statistic(kind="mean", columns=("angle",)),
        "within 11.25\N{DEGREE SIGN}": Statistic(kind="mean", columns=("within_11",)),
        "within 30\N{DEGREE SIGN}": Statistic(kind="mean", columns=("within_30",)),
    }
    attack_losses = AttackLosses(
        losses={"angular": on_labels(losses.angular), "cosine": on_labels(losses.cosine)},
        damage=_damage,
        black_box="angular",
        ensemble=(
            EnsembleMember("cosine", "apgd"),
            EnsembleMember("angular", "apgd"),
            EnsembleMember("cosine", "staged-apgd"),
        ),
    )
    attacks: ClassVar = ("pgd",)
    display: ClassVar = Display(kind="colours")
    label_axes: ClassVar = 3
    output_words: ClassVar = "(B, 3, h, w)"
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
    }

    def head(self, dims: FeatureDims, design: HeadDesign) -> Head:
        return NormalsHead(dims.patch)

    def training_loss(self, output: Tensor, target: Tensor) -> Tensor:
        return losses.cosine(output, target)

    def rows(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        normals = resize(output, (target.shape[-2], target.shape[-1])).double()
        return angular_errors(normals, target.double()) | {"constant_angles": constant_errors(target.double())}

    def score(self, rows: Mapping[str, Tensor]) -> Tensor:
        return rows["angle"].float()

    def chance(self, rows: Columns) -> float | None:
        constant = np.asarray(rows["constant_angles"], dtype=float)
        known = constant[np.isfinite(constant).all(1)]
        return float(known.mean(0).min()) if len(known) else None

    def check_values(self, label: Tensor) -> Tensor:
        vectors = label if label.is_floating_point() else label.float()
        length = vectors.square().sum(-3).sqrt()
        wrong = ~torch.isfinite(length) | ((length > 0) & ((length - 1).abs() > LENGTH_TOLERANCE))
        if wrong.any():
            found = float(length[wrong].flatten()[0])
            raise ValueError(f"a vector of length {found:.3g}; expected length 1, or 0 where there is no normal")
        return vectors

    def flip(self, target: Tensor) -> Tensor:
        mirrored = target.flip(-1)
        return torch.cat([-mirrored[..., :1, :, :], mirrored[..., 1:, :, :]], -3)

    def example_targets(self, count: int, size: tuple[int, int], generator: torch.Generator | None = None) -> Tensor:
        vectors = losses.unit(torch.randn(count, 3, *size, generator=generator))
        unknown = torch.rand(count, 1, *size, generator=generator) < EXAMPLE_UNKNOWN
        return torch.where(unknown, 0, vectors)

    def counted(self, target: Tensor) -> Tensor:
        return target[:, (target != 0).any(0)].flatten()

    def describe_labels(self, found: LabelStatistics) -> str:
        return f"{found.used / max(1, found.total):.0%} valid"

    def shown_output(self, output: Tensor) -> Tensor:
        return losses.unit(output[None])[0].clone()

    def picture(self, shown: Tensor) -> NDArray[Any]:
        """The usual colours: red to the right, green up, blue towards the camera; grey where there is no normal."""
        colours = ((shown + 1) / 2 * 255).round().clamp(0, 255)
        known = (shown != 0).any(0)
        return torch.where(known, colours, UNKNOWN_GREY).byte().permute(1, 2, 0).numpy()


def angular_errors(normals: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Per image mean angle (degrees) and share of pixels below 11.25 and 30 degrees, each (B,).

    Pixels without a label count nowhere; an image without any label gives NaN.
    """
    valid = losses.known(target)
    angle, count = torch.rad2deg(losses.angles(normals, target)), valid.sum(1)

    def mean(values: Tensor) -> Tensor:
        return image_sums(torch.where(valid, values, 0).double()) / count

    return {
        "angle": mean(angle),
        "within_11": mean((angle < 11.25).double()),
        "within_30": mean((angle < 30).double()),
    }


def constant_errors(target: Tensor) -> Tensor:
    """Mean angle (B, 64) in degrees of each of 64 constant directions that face the camera."""
    found = [angular_errors(c[None, :, None, None].expand_as(target), target)["angle"] for c in facing().to(target)]
    return torch.stack(found, 1)


def facing() -> Tensor:
    """Directions (64, 3) spread evenly over the half sphere towards the camera (Fibonacci's spiral)."""
    index = torch.arange(CONSTANTS, dtype=torch.float64)
    z, turn = 1 - (index + 0.5) / CONSTANTS, index * math.pi * (3 - math.sqrt(5))
    radius = (1 - z.square()).sqrt()
    return torch.stack([radius * turn.cos(), radius * turn.sin(), z], 1)
