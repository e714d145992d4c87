"""What files go through: compression and resizing, by Pillow, on pixels rounded to 8 bits."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from robustprobe.core.images import opened

PIXELATE = (0.6, 0.5, 0.4, 0.3, 0.25)
"""The share of the sides that is kept."""
JPEG_COMPRESSION = (25, 18, 15, 10, 7)
"""Quality."""
WEBP_COMPRESSION = (25, 18, 15, 10, 7)
"""Quality; there is no published scale for WebP, so it is that of JPEG."""
RESIZE = (0.7, 0.5, 0.35, 0.25, 0.15)
"""The share of the sides that a preview keeps."""
REPOST = (1, 2, 3, 4, 5)
"""How often an image is posted again: made smaller, saved as JPEG, enlarged, saved as WebP."""
REPOST_SHARE, REPOST_JPEG, REPOST_WEBP = 0.8, 75, 70


def pixelate(image: Tensor, severity: int, generator: Generator) -> Tensor:
    return through(image, PIXELATE[severity - 1], Image.Resampling.BOX, Image.Resampling.BOX)


def jpeg_compression(image: Tensor, severity: int, generator: Generator) -> Tensor:
    return as_tensor(saved(as_picture(image), "JPEG", JPEG_COMPRESSION[severity - 1]))


def webp_compression(image: Tensor, severity: int, generator: Generator) -> Tensor:
    return as_tensor(saved(as_picture(image), "WEBP", WEBP_COMPRESSION[severity - 1]))


def resize(image: Tensor, severity: int, generator: Generator) -> Tensor:
    return through(image, RESIZE[severity - 1], Image.Resampling.LANCZOS, Image.Resampling.BICUBIC)


def repost(image: Tensor, severity: int, generator: Generator) -> Tensor:
    picture = as_picture(image)
    size = picture.size
    for _ in range(REPOST[severity - 1]):
        small = picture.resize(smaller(size, REPOST_SHARE), Image.Resampling.LANCZOS)
        large = saved(small, "JPEG", REPOST_JPEG).resize(size, Image.Resampling.BICUBIC)
        picture = saved(large, "WEBP", REPOST_WEBP)
    return as_tensor(picture)


def through(image: Tensor, share: float, down: Image.Resampling, up: Image.Resampling) -> Tensor:
    """An image made smaller and enlarged again."""
    picture = as_picture(image)
    return as_tensor(picture.resize(smaller(picture.size, share), down).resize(picture.size, up))


def smaller(size: tuple[int, int], share: float) -> tuple[int, int]:
    """Width and height of a smaller picture, at least one pixel each."""
    return max(1, int(size[0] * share)), max(1, int(size[1] * share))


def saved(picture: Image.Image, format: str, quality: int) -> Image.Image:
    """A picture written in a format with loss and read again, in memory."""
    buffer = io.BytesIO()
    picture.save(buffer, format, quality=quality)
    buffer.seek(0)
    with opened(buffer, formats=(format,)) as read:
        return read.convert("RGB")


def as_picture(image: Tensor) -> Image.Image:
    """An image (3, H, W) in [0, 1], rounded to 8 bits."""
    return Image.fromarray(np.asarray(image.mul(255).round().to(torch.uint8).permute(1, 2, 0)))


def as_tensor(picture: Image.Image) -> Tensor:
    """A picture as (3, H, W) in [0, 1]."""
    return torch.tensor(np.asarray(picture)).permute(2, 0, 1).float() / 255
