"""Snow, fog and light."""

import torch
from torch import Generator, Tensor

from robustprobe.corruptions._blur import between
from robustprobe.corruptions._colour import grey
from robustprobe.corruptions._filters import motion, zoomed

SNOW = (
    (0.1, 0.3, 3.0, 0.5, 10, 4.0, 0.8),
    (0.2, 0.3, 2.0, 0.5, 12, 4.0, 0.7),
    (0.55, 0.3, 4.0, 0.9, 12, 8.0, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8.0, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12.0, 0.55),
)
"""Mean and deviation of the flakes, their zoom, the level below which there are none, radius and deviation of their
motion, and the share of the image that stays.
"""
FOG = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))
"""Density, and how much finer structure weakens."""
SMALLEST_MAP = 256


def snow(image: Tensor, severity: int, generator: Generator) -> Tensor:
    mean, deviation, zoom, level, radius, sigma, share = SNOW[severity - 1]
    flakes = zoomed(mean + deviation * torch.randn(1, *image.shape[-2:], generator=generator), zoom)
    flakes = torch.where(flakes < level, 0.0, flakes).clamp(0, 1).mul(255).floor().div(255)
    flakes = motion(flakes, radius, sigma, between(-135, -45, generator))
    white = torch.maximum(image, grey(image) * 1.5 + 0.5)
    return share * image + (1 - share) * white + flakes + flakes.flip(1, 2)


def fog(image: Tensor, severity: int, generator: Generator) -> Tensor:
    density, decay = FOG[severity - 1]
    height, width = image.shape[-2:]
    brightest = float(image.max())
    clouds = plasma(max(height, width), decay, generator)[:height, :width]
    return (image + density * clouds) * (brightest / (brightest + density))


def plasma(side: int, decay: float, generator: Generator) -> Tensor:
    """A fractal height map in [0, 1] by the diamond-square algorithm, its side the next power of two from 256 on."""
    size = SMALLEST_MAP
    while size < side:
        size *= 2
    heights = torch.zeros(size, size, dtype=torch.float64)
    step, rough = size, 100.0

    def varied(total: Tensor) -> Tensor:
        drawn = torch.rand(total.shape, generator=generator, dtype=torch.float64)
        return total / 4 + rough * rough * (2 * drawn - 1)

    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        pairs = corners + corners.roll(-1, 0)
        heights[half::step, half::step] = varied(pairs + pairs.roll(-1, 1))
        centres, corners = heights[half::step, half::step], heights[::step, ::step]
        above = centres + centres.roll(1, 0) + corners + corners.roll(-1, 1)
        heights[::step, half::step] = varied(above)
        beside = centres + centres.roll(1, 1) + corners + corners.roll(-1, 0)
        heights[half::step, ::step] = varied(beside)
        step, rough = half, rough / decay
    heights -= heights.min()
    return (heights / heights.max()).float()
