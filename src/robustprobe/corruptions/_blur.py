"""Blur by lens, glass and motion. Lengths are in pixels."""

import torch
from torch import Generator, Tensor

from robustprobe.corruptions._filters import convolved, disk, gaussian, motion, zoomed

DEFOCUS_BLUR = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))
"""Radius of the disk, and the standard deviation that smooths its edge."""
GLASS_BLUR = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
"""Standard deviation of a Gaussian, the farthest that a pixel comes from, and how often."""
MOTION_BLUR = ((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0))
"""Radius and standard deviation."""
ZOOM_BLUR = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
"""The end, exclusive, and the step of the zoom factors from 1."""
GAUSSIAN_BLUR = (1.0, 2.0, 3.0, 4.0, 6.0)
"""Standard deviation."""
MOST_ANGLE = 45.0


def defocus_blur(image: Tensor, severity: int, generator: Generator) -> Tensor:
    return convolved(image, disk(*DEFOCUS_BLUR[severity - 1]), "reflect")


def glass_blur(image: Tensor, severity: int, generator: Generator) -> Tensor:
    """Pixels are replaced by near ones, from the last to the first, in place: so the published images were made."""
    sigma, reach, times = GLASS_BLUR[severity - 1]
    height, width = image.shape[-2:]
    source = list(range(height * width))
    for _ in range(times):
        moves = torch.randint(-reach, reach, (2, height, width), generator=generator)
        steps = (moves[0] * width + moves[1]).flatten().tolist()
        for row in range(height - reach, reach, -1):
            for place in range(row * width + width - reach, row * width + reach, -1):
                source[place] = source[place + steps[place]]
    smooth = gaussian(image, sigma).mul(255).floor().div(255)
    return gaussian(smooth.flatten(1)[:, source].reshape(image.shape), sigma)


def motion_blur(image: Tensor, severity: int, generator: Generator) -> Tensor:
    return motion(image, *MOTION_BLUR[severity - 1], angle=between(-MOST_ANGLE, MOST_ANGLE, generator))


def zoom_blur(image: Tensor, severity: int, generator: Generator) -> Tensor:
    end, step = ZOOM_BLUR[severity - 1]
    factors = torch.arange(1, end, step, dtype=torch.float64).tolist()
    return (image + sum((zoomed(image, factor) for factor in factors), torch.zeros_like(image))) / (len(factors) + 1)


def gaussian_blur(image: Tensor, severity: int, generator: Generator) -> Tensor:
    return gaussian(image, GAUSSIAN_BLUR[severity - 1])


def between(low: float, high: float, generator: Generator) -> float:
    """A number drawn uniformly."""
    return low + (high - low) * float(torch.rand(1, generator=generator))
