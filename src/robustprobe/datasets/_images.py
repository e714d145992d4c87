"""Images, masks and depth maps from files of any mode, orientation and size."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from robustprobe.core.errors import UserError
from robustprobe.core.images import check_pixels, opened

Size = tuple[int, int]

# ImageNet is scored on the central 224 pixels of an image whose shorter side is 256.
CROP_SHARE = 224 / 256
IMAGE_SUFFIXES = frozenset(
    f".{ending}"
    for ending in "jpg jpeg jpe jfif png ppm pgm pbm pnm bmp dib gif tif tiff webp avif jp2".split()  # noqa: SIM905
)
# EXIF orientations that keep height and width, and those that exchange them.
MIRRORED, QUARTER_TURNS = frozenset({2, 3, 4}), frozenset({5, 6, 7, 8})
# Bits per pixel that cameras and scanners record; files hold them in 16 or 32.
BITS = (8, 10, 12, 14, 16)
MOST_OF_16_BITS = 2**16 - 1
# Decoders spread grey of 2 and 4 bits over 0 to 255.
SPREAD = {"L;2": 85, "L;4": 17}


def as_rgb(image: Image.Image) -> Image.Image:
    """The image in 8-bit RGB. Transparency is dropped, as torchvision's loaders do.

    Grey of more than 8 bits is scaled by the bits that its largest value needs: 8, 10, 12, 14 or 16. Floating-point
    grey up to 1 is taken as [0, 1], larger values as whole numbers.

    Raises:
        UserError: negative values, values over 16 bits, or none that are finite.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        # Pillow clips such images at 255 instead of scaling them.
        image = Image.fromarray(_eight_bits(np.asarray(image), shown(image)))
    return image.convert("RGB")


def _eight_bits(levels: NDArray[Any], name: str) -> NDArray[np.uint8]:
    largest = levels.max()
    if not np.isfinite(levels).all() or levels.min() < 0 or largest >= 2 ** BITS[-1]:
        raise UserError(
            f"{name} holds values outside 16 bits ({levels.min():g} to {largest:g}); save it with 8 bits per channel."
        )
    if levels.dtype.kind == "f" and largest <= 1:
        return np.asarray((levels * 255).round(), np.uint8)
    top = next(2**bits - 1 for bits in BITS if largest < 2**bits)
    return np.asarray(levels.astype(np.int64) * 255 // top, np.uint8)


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
        # Of several frames the first is read, and Pillow would keep the file open for the others.
        with opened(path) as image:
            image.info["layout"] = _layout(image)
            image.load()
    except UserError:
        raise
    except Exception as error:
        raise OSError(f"{error}" if str(path) in str(error) else f"{path}: {error}") from error
    return image


def _layout(image: Image.Image) -> str:
    """How pixels are packed in the file, in Pillow's words: `L;4` is grey of 4 bits. Known until they are decoded."""
    tiles = getattr(image, "tile", ())
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


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


def has_unclear_orientation(path: Path) -> bool:
    """Whether an EXIF orientation turns or mirrors an image and leaves its size: a label map beside it, of that size
    either way, does not say whether it was turned too. False for a file that is no image.
    """
    try:
        with opened(path) as image:
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            return orientation in MIRRORED or (orientation in QUARTER_TURNS and image.height == image.width)
    except (UserError, OSError):
        return False


def is_jpeg(path: Path) -> bool:
    """Whether a file is a JPEG image. False for a file that is no image."""
    try:
        with opened(path) as image:
            return image.format == "JPEG"
    except (UserError, OSError):
        return False


def used_colours(path: Path) -> dict[int, tuple[int, ...]]:
    """The colour of each index that occurs in a palette image; empty for images of other modes."""
    image = loaded(path)
    palette = image.getpalette() if image.mode == "P" else None
    if palette is None:
        return {}
    used = (int(index) for index in np.unique(np.array(image)))
    return {index: tuple(palette[3 * index : 3 * index + 3]) for index in used}


def read_mask(path: Path) -> NDArray[Any]:
    """Class indices (h, w) of a grey or palette image, as stored: a palette's indices, not its colours, and grey of few
    bits or with white at 0 not as decoders spread it over 0 to 255.

    Raises:
        UserError: a colour image, or one of floating-point values.
    """
    mask = loaded(path)
    if mask.mode not in ("L", "P", "1") and not mask.mode.startswith("I"):
        raise UserError(
            f"{path} is an image of mode {mask.mode}; expected class indices in one channel, or a palette. "
            "Download the mask again, or convert its colours to indices."
        )
    stored, layout = np.array(mask), mask.info["layout"]
    if mask.mode in ("1", "L") and "I" in layout.partition(";")[2]:
        stored = ~stored
    return stored // SPREAD.get(layout[:3], 1) if mask.mode == "L" else stored


def read_depth(path: Path, scale: float, float_scale: float | None = None) -> NDArray[np.float32]:
    """Depth (h, w) in metres of an image that stores `scale` units per metre; 0 where it is unknown.

    65535 in a map of 16 bits is what sensors and programs store where nothing was measured.

    Args:
        float_scale: units per metre of floating-point images, where that differs.

    Raises:
        UserError: more than one channel, or 8 bits.
    """
    image = loaded(path)
    stored = np.array(image)
    if stored.ndim != 2:
        raise UserError(f"{path} has shape {stored.shape}; expected one channel with a depth per pixel. Replace it.")
    if stored.dtype.itemsize < 2:
        raise UserError(f"{path} has 8 bits per pixel; expected 16-bit depth. Download the 16-bit depth maps.")
    if image.info["layout"].startswith("I;16"):
        stored[stored == MOST_OF_16_BITS] = 0
    units = float_scale if float_scale is not None and stored.dtype.kind == "f" else scale
    return (stored / units).astype(np.float32)


def shown(image: Image.Image) -> str:
    """The name of an image in error messages."""
    return str(getattr(image, "filename", "")) or f"an image of mode {image.mode}"
