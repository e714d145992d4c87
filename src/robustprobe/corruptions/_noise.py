"""Noise of sensors and transmission."""

import torch
from torch import Generator, Tensor

GAUSSIAN_NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)
"""Standard deviation."""
SHOT_NOISE = (60.0, 25.0, 12.0, 5.0, 3.0)
"""Photons of a white pixel."""
IMPULSE_NOISE = (0.03, 0.06, 0.09, 0.17, 0.27)
"""Share of values that are set to black or white."""
SPECKLE_NOISE = (0.15, 0.2, 0.35, 0.45, 0.6)
"""Standard deviation for a white pixel."""


def gaussian_noise(image: Tensor, severity: int, generator: Generator) -> Tensor:
    return image + GAUSSIAN_NOISE[severity - 1] * torch.randn(image.shape, generator=generator)


def shot_noise(image: Tensor, severity: int, generator: Generator) -> Tensor:
    photons = SHOT_NOISE[severity - 1]
    return torch.poisson(image * photons, generator=generator) / photons


def impulse_noise(image: Tensor, severity: int, generator: Generator) -> Tensor:
    drawn, white = (torch.rand(image.shape, generator=generator) for _ in range(2))
    return torch.where(drawn < IMPULSE_NOISE[severity - 1], (white < 0.5).float(), image)


def speckle_noise(image: Tensor, severity: int, generator: Generator) -> Tensor:
    return image + image * SPECKLE_NOISE[severity - 1] * torch.randn(image.shape, generator=generator)
