"""Safe reading of image files from others: format and size are checked before any pixel is decoded."""

import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import IO

from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from robustprobe.core.errors import UserError
from robustprobe.core.files import LFS_POINTER, NUMPY_ARRAY

# Pillow's other formats start other programs (EPS) or are not needed.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "GIF", "TIFF", "WEBP", "AVIF", "JPEG2000")
# 89 million, from where Pillow warns: an RGB image of a quarter of a GiB.
MOST_PIXELS = 1024 * 1024 * 1024 // 4 // 3

LONGEST_MARK = 64
OTHER_KINDS = {
    LFS_POINTER: "is a Git LFS pointer, which stands for a file; `git lfs pull` in its repository gets that",
    b"<": "is a web page or XML",
    NUMPY_ARRAY: "is an array of NumPy, which is not read; save it as PNG or TIFF",
    b"\x76\x2f\x31\x01": "is OpenEXR, which is not read; save it as TIFF",
}

TIFF_STARTS = (b"II*\0", b"MM\0*")
TIFF_NUMBERS = {1: "whole numbers", 2: "signed whole numbers", 3: "floating point"}
TIFF_ADVICE = "save it as 32-bit floating point in one channel, or as whole numbers of 8 or 16 bits"

# `check_pixels` raises an error instead of Pillow's warning.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def opened(source: Path | IO[bytes], formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """An image with only its header read.

    Raises:
        UserError: more than `MOST_PIXELS`.
        OSError: not an image of these formats, or another error of Pillow.
    """
    try:
        image = Image.open(source, formats=formats)
    except UnidentifiedImageError as error:
        if kind := _kind(source):
            raise OSError(f"{_called(source)} {kind}") from error
        raise
    except Image.DecompressionBombError as error:
        raise UserError(f"{_called(source)} is refused: {error}") from error
    check_pixels(image.height, image.width, _called(source))
    return image


def check_pixels(height: int, width: int, what: str) -> None:
    """Raises UserError for more than `MOST_PIXELS`."""
    if height * width > MOST_PIXELS:
        raise UserError(
            f"{what} would have {height} x {width} pixels; at most {MOST_PIXELS:,} are read, because a small file can "
            "declare any number. Replace it, or reduce its size."
        )


def _kind(source: Path | IO[bytes]) -> str:
    """What a file that is no image is instead, where its first bytes say so."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            start = file.read(LONGEST_MARK)
    else:
        source.seek(0)
        start = source.read(LONGEST_MARK)
    if not start:
        return "is empty"
    if start[4:8] == b"ftyp":
        return "is HEIC or a video, which are not read; convert it to PNG"
    if start.startswith(TIFF_STARTS):
        return _tiff_kind(source)
    return next((text for mark, text in OTHER_KINDS.items() if start.lstrip().startswith(mark)), "")


def _tiff_kind(source: Path | IO[bytes]) -> str:
    """The pixels of a TIFF that Pillow does not know, such as `is a TIFF of 64-bit floating point`."""
    try:
        with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
            file.seek(0)
            tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
            file.seek(tags.next)
            tags.load(file)
            bits = sorted({int(count) for count in tags.get(ExifTags.Base.BitsPerSample, (1,))})
            number = TIFF_NUMBERS.get(next(iter(tags.get(ExifTags.Base.SampleFormat, (1,)))), "pixels")
    except Exception:
        # A broken file raises anything, and is then no image for the caller.
        return ""
    depth = "- and ".join(str(one) for one in bits)
    return f"is a TIFF of {depth}-bit {number}, which is not read; {TIFF_ADVICE}"


def _called(source: Path | IO[bytes]) -> str:
    return str(source) if isinstance(source, Path) else "an image"
