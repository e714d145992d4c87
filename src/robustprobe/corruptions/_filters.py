"""Filters and zoom as the reference's libraries define them."""

import math
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

TRUNCATE = 4.0
"""A Gaussian ends after so many standard deviations, as in SciPy and scikit-image."""
Border = Literal["edge", "reflect"]


def convolved(image: Tensor, kernel: Tensor, border: Border) -> Tensor:
    """Channels (C, H, W) correlated with a kernel (h, w) of odd sides.

    Args:
        border: `edge` repeats the last pixel (SciPy's `nearest`), `reflect` mirrors without repeating it (OpenCV's
            default).
    """
    height, width = kernel.shape
    return F.conv2d(padded(image, height // 2, width // 2, border)[:, None], kernel[None, None])[:, 0]


def padded(image: Tensor, rows: int, columns: int, border: Border) -> Tensor:
    """Channels with so many more pixels on each side, also where these are more than the image has."""
    around = ((0, 0), (rows, rows), (columns, columns))
    return torch.from_numpy(np.pad(image.numpy(), around, mode=cast(Any, border)))


def gaussian(image: Tensor, sigma: float) -> Tensor:
    """Channels (C, H, W) smoothed by a Gaussian, as `skimage.filters.gaussian` does by default."""
    radius = int(TRUNCATE * sigma + 0.5)
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    weights = (weights / weights.sum()).float()
    return convolved(convolved(image, weights[:, None], "edge"), weights[None], "edge")


def disk(radius: int, alias_blur: float) -> Tensor:
    """The kernel of a lens out of focus: a disk with a smoothed edge."""
    reach, ring = (8, 1) if radius <= 8 else (radius, 2)
    along = torch.arange(-reach, reach + 1)
    inside = (along[:, None] ** 2 + along[None] ** 2 <= radius**2).float()
    edge = torch.exp(-0.5 * (torch.arange(-ring, ring + 1, dtype=torch.float64) / alias_blur) ** 2)
    edge = (edge / edge.sum()).float()
    return convolved((inside / inside.sum())[None], edge[:, None] * edge[None], "reflect")[0]


def motion(image: Tensor, radius: int, sigma: float, angle: float) -> Tensor:
    """Channels (C, H, W) blurred along one direction, as ImageMagick does: half a Gaussian from each pixel onwards.

    Args:
        angle: in degrees.
    """
    count, (height, width) = 2 * radius + 1, image.shape[-2:]
    weights = torch.exp(-0.5 * (torch.arange(count, dtype=torch.float64) / sigma) ** 2)
    weights = weights / weights.sum()
    down, across = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    around = padded(image, count, count, "edge")
    blurred = torch.zeros_like(image)
    for step, weight in enumerate(weights.tolist()):
        row, column = count + math.ceil(step * down - 0.5), count + math.ceil(step * across - 0.5)
        blurred += weight * around[:, row : row + height, column : column + width]
    return blurred


def zoomed(image: Tensor, factor: float) -> Tensor:
    """The centre of channels (C, H, W) enlarged to the whole, bilinearly, as `scipy.ndimage.zoom` of order 1 does."""
    size = image.shape[-2:]
    inner = [math.ceil(side / factor) for side in size]
    top, left = ((side - part) // 2 for side, part in zip(size, inner, strict=True))
    centre = image[:, top : top + inner[0], left : left + inner[1]]
    outer = [round(part * factor) for part in inner]
    large = F.interpolate(centre[None], size=outer, mode="bilinear", align_corners=True)[0]
    top, left = ((side - part) // 2 for side, part in zip(outer, size, strict=True))
    return large[:, top : top + size[0], left : left + size[1]]
