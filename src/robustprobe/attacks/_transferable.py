"""What makes adversarial images transfer to other models: input diversity and smoothed gradients."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from robustprobe.attacks._search import Diversity, Entries, PerImageRandom
from robustprobe.core.threat import image_generator

# DI's images are at least so large before they are padded to their size (the authors enlarge 299 to at most 330).
SMALLEST = 0.9
# TI's Gaussian reaches three standard deviations from its middle.
DEVIATIONS = 3


def input_diversity(probability: float, randomness: PerImageRandom) -> Diversity | None:
    """DI (Xie et al. 2019): with a probability, an image is resized to 0.9 to 1 of its side and padded with zeros.

    Draws depend on seed, image, run and step, not on the batch.
    """
    if not probability:
        return None

    def diverse(images: Tensor, entries: Entries, step: int) -> Tensor:
        places = zip(images.split(1), entries.rows.tolist(), entries.runs.tolist(), strict=True)
        return torch.cat(
            [_resized(image, probability, _draws(randomness, row, run, step)) for image, row, run in places]
        )

    return diverse


def _draws(randomness: PerImageRandom, row: int, run: int, step: int) -> list[float]:
    name = (randomness.purpose, "input diversity", run, step)
    return torch.rand(4, generator=image_generator(randomness.seed, randomness.ids[row], *name)).tolist()


def _resized(image: Tensor, probability: float, draws: list[float]) -> Tensor:
    """An image (1, 3, H, W) resized and padded to its own size as `draws` say: whether, side, top, left."""
    whether, side, top, left = draws
    height, width = image.shape[-2:]
    if whether >= probability:
        return image
    share = SMALLEST + (1 - SMALLEST) * side
    small = (max(1, round(share * height)), max(1, round(share * width)))
    above, before = int(top * (height - small[0] + 1)), int(left * (width - small[1] + 1))
    smaller = F.interpolate(image, size=small, mode="bilinear", align_corners=False)
    return F.pad(smaller, (before, width - small[1] - before, above, height - small[0] - above))


def translation_smoothing(side: int) -> Callable[[Tensor], Tensor] | None:
    """TI (Dong et al. 2019, eq. 6): gradients (n, 3, H, W) convolved with a Gaussian of `side` pixels; None for 0."""
    if side < 2:
        return None

    def smooth(gradient: Tensor) -> Tensor:
        kernel = gaussian(side).to(gradient)
        rows = F.conv2d(gradient.flatten(0, 1)[:, None], kernel[None, None, :, None], padding=(side // 2, 0))
        both = F.conv2d(rows, kernel[None, None, None, :], padding=(0, side // 2))
        return both.view_as(gradient)

    return smooth


def gaussian(side: int) -> Tensor:
    """A Gaussian (side,) with sum 1 that ends at three standard deviations."""
    values = torch.linspace(-DEVIATIONS, DEVIATIONS, side, dtype=torch.float64)
    kernel = (-values.square() / 2).exp()
    return kernel / kernel.sum()
