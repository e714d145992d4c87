"""How many images are attacked at once: by the memory that is free and what an image was measured to take."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robustprobe.core.device import bytes_of, free_memory
from robustprobe.core.gradients import image_gradient
from robustprobe.core.types import Features

PROBE_PIXELS = 200_000
MEMORY_SHARE = 0.5
"""Of the free memory, what a batch may take by what one image was measured to take."""
MAP_COPIES = 6
"""Output maps that are held at once: logits at image size, softmax or errors, the gradient of each, and copies."""
SMALL_PIXELS = 2**18
"""Batches of no more pixels are not measured; five images of 224 x 224 are such a batch."""


def probe_images(size: tuple[int, int]) -> int:
    """Images of `size` (H, W) that a measurement takes."""
    return max(1, min(32, PROBE_PIXELS // (size[0] * size[1])))


def batch_in_memory(wanted: int, image_bytes: int, free: int | None) -> int:
    """`wanted` images, or as many as `MEMORY_SHARE` of the `free` bytes hold, one at least; None or 0: not known."""
    return wanted if free is None or not image_bytes else max(1, min(wanted, int(MEMORY_SHARE * free) // image_bytes))


def largest_batch(function: Callable[[Tensor], Any], images: Tensor, uses_gradient: bool) -> int:
    """How many of the images (B, 3, H, W) are attacked at once, from one step on the first of them.

    Args:
        function: what is attacked, from images to features or outputs.
        uses_gradient: whether the attack needs the gradient of images.
    """
    size = (images.shape[-2], images.shape[-1])
    if images[:, 0].numel() <= SMALL_PIXELS:
        return len(images)
    few = images[: probe_images(size)]
    # The first pass also allocates what every later one uses again.
    maps = _step(function, few[:1], uses_gradient)
    held = bytes_of(lambda: _step(function, few, uses_gradient), images.device)
    each = 0 if held is None else held // len(few) + MAP_COPIES * maps
    return batch_in_memory(len(images), each, free_memory(images.device))


def _step(function: Callable[[Tensor], Any], images: Tensor, uses_gradient: bool) -> int:
    """One step; returns the bytes of the output map of an image, 0 where outputs are no maps."""
    given = images.float().clone().requires_grad_(uses_gradient)
    with torch.set_grad_enabled(uses_gradient):
        answer = function(given.to(images.dtype))
        parts = answer if isinstance(answer, Features) else (answer,)
        if uses_gradient:
            image_gradient(torch.stack([part.float().square().sum() for part in parts]).sum(), given)
    whole = isinstance(answer, Tensor) and answer.ndim > 2
    return int(4 * answer.numel() // len(images)) if whole else 0
