"""Images, masks and depth maps from files of any mode, orientation and size."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from robustprobe.core.errors import UserError
from robustprobe.core.images import check_pixels, opened

Size = tuple[int, int]

# ImageNet is scored on the central 224 pixels of an image whose shorter side is 256.
CROP_SHARE = 224 / 256
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp"))


def as_rgb(image: Image.Image) -> Image.Image:
    """The image in 8-bit RGB. Transparency is dropped, as torchvision's loaders do; 16-bit grey keeps its high byte.

    Raises:
        UserError: a mode with an unknown range of values.
    """
    if image.mode == "F":
        raise UserError(
            f"{shown(image)} holds floating-point numbers of unknown range; save it with 8 bits per channel."
        )
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey at 255 instead of scaling it.
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise UserError(f"{shown(image)} holds values outside 16 bits; save it with 8 bits per channel.")
        image = Image.fromarray((levels // 257).astype(np.uint8))
    return image.convert("RGB")


def to_tensor(image: Image.Image, size: Size) -> Tensor:
    """An RGB image as (3, H, W) in [0, 1], resized bilinearly with antialiasing, on the 8-bit grid."""
    check_pixels(*size, f"an image of {image.height} x {image.width}, resized,")
    if (image.height, image.width) != size:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def served_size(size: Size | int, stored: Size) -> Size:
    """The size (H, W) that an image of `stored` size is resized to; a single number sets the shorter side and keeps the
    aspect ratio.
    """
    if not isinstance(size, int):
        return size
    shorter = min(stored)
    return round(stored[0] * size / shorter), round(stored[1] * size / shorter)


def centre_crop(image: Image.Image, side: int) -> Image.Image:
    """The central square of `side` pixels, after resizing the shorter side to 256/224 of `side`."""
    shorter = int(side / CROP_SHARE)
    scale = shorter / min(image.size)
    width, height = (max(shorter, int(length * scale)) for length in image.size)
    check_pixels(height, width, f"an image of {image.height} x {image.width}, resized,")
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return resized.crop((left, top, left + side, top + side))


def upright(image: Image.Image) -> Image.Image:
    """The image rotated by its EXIF orientation."""
    return ImageOps.exif_transpose(image)


def loaded(path: Path) -> Image.Image:
    """The decoded image. Raises OSError with the name of the file, whatever Pillow raises."""
    try:
        image = opened(path)
        image.load()
    except UserError:
        raise
    except Exception as error:
        raise OSError(f"{path}: {error}") from error
    return image


def open_matching(path: Path, shape: Size, label: Path) -> Image.Image:
    """The image of a label map of `shape` (H, W): as stored, or rotated by its EXIF orientation if only
    that matches.

    Raises:
        UserError: neither matches.
    """
    image = loaded(path)
    for candidate in (image, upright(image)):
        if (candidate.height, candidate.width) == shape:
            return candidate
    raise UserError(
        f"{path} is {image.height} x {image.width} and its label {label} is {shape[0]} x {shape[1]}; "
        "expected the same size. Replace one of them."
    )


def read_mask(path: Path) -> NDArray[Any]:
    """Class indices (h, w) of a grey or palette image; a palette's indices, not its colours.

    Raises:
        UserError: a colour image, or one of floating-point values.
    """
    mask = loaded(path)
    if mask.mode not in ("L", "P", "1") and not mask.mode.startswith("I"):
        raise UserError(
            f"{path} is an image of mode {mask.mode}; expected class indices in one channel, or a palette. "
            "Download the mask again, or convert its colours to indices."
        )
    return np.array(mask)


def read_depth(path: Path, scale: float) -> NDArray[np.float32]:
    """Depth (h, w) in metres of a 16-bit PNG that stores `scale` units per metre.

    Raises:
        UserError: more than one channel, or 8 bits.
    """
    stored = np.array(loaded(path))
    if stored.ndim != 2:
        raise UserError(f"{path} has shape {stored.shape}; expected one channel with a depth per pixel. Replace it.")
    if stored.dtype.itemsize < 2:
        raise UserError(f"{path} has 8 bits per pixel; expected 16-bit depth. Download the 16-bit depth maps.")
    return (stored / scale).astype(np.float32)


def shown(image: Image.Image) -> str:
    """The name of an image in error messages."""
    return str(getattr(image, "filename", "")) or f"an image of mode {image.mode}"
