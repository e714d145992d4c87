"""Pixels for pages and notebooks: differences, overlays and maps as lossless PNG, embedded as data URIs."""

import base64
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustprobe.core.errors import UserError
from robustprobe.core.images import opened

Pixels = NDArray[np.uint8]
AMPLIFICATION = 10
MIDDLE_GREY = 128
IGNORED_CLASS = 255
TINT = 0.65
THUMBNAIL = 48
_STEPS = 255
_INVALID = 255
_INVALID_COLOUR = (128, 128, 128)

# Viridis of van der Walt and Smith (CC0) at every eighth.
_VIRIDIS = np.array(
    [
        *((68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141)),
        *((39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37)),
    ],
    dtype=float,
)
# Okabe and Ito (2008) without black, then five of Paul Tol's muted colours, which stay apart from them.
_CLASS_COLOURS = np.array(
    [
        *((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66)),
        *((51, 34, 136), (136, 34, 85), (153, 153, 51), (221, 204, 119), (17, 119, 51)),
    ],
    dtype=float,
)
_SHADES = (0.0, 0.45, -0.4)


class Picture(NamedTuple):
    """A PNG as a data URI, what it shows in words, and what is printed below it."""

    uri: str
    alt: str
    note: str = ""


class Scale(NamedTuple):
    """Ends of a colour scale, in its unit."""

    low: float
    high: float
    unit: str = "m"


def read_array(path: Path) -> NDArray[Any]:
    """A PNG as it was written: (H, W, 3) uint8, (H, W) uint8 or (H, W) uint16.

    Raises:
        UserError: missing or unreadable file.
    """
    try:
        if path.is_symlink():
            raise OSError("it is a link, which a run never writes")
        with opened(path, formats=("PNG",)) as image:
            return np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(
            f"example image {path} cannot be read: {error}. Run its suite again: it makes what is damaged anew."
        ) from error


def png_uri(pixels: Pixels, palette: Pixels | None = None, clear: int | None = None) -> str:
    """Data URI of a PNG of (H, W, 3) colours, or of (H, W) indices into a palette (N, 3), of which `clear` is glass."""
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **({} if clear is None else {"transparency": clear}))
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def difference(clean: Pixels, attacked: Pixels) -> NDArray[np.int16]:
    """Attacked minus clean image, in grey levels."""
    return attacked.astype(np.int16) - clean.astype(np.int16)


def amplified(delta: NDArray[np.int16]) -> Pixels:
    """A difference in grey levels, ten times as large around middle grey; what leaves [0, 255] is clipped."""
    return np.asarray(np.clip(MIDDLE_GREY + AMPLIFICATION * delta, 0, 255), dtype=np.uint8)


def viridis(positions: NDArray[np.float64]) -> Pixels:
    """Colours (N, 3) at positions (N,) in [0, 1], from dark blue over green to yellow."""
    knots = np.linspace(0, 1, len(_VIRIDIS))
    return np.stack([np.interp(positions, knots, _VIRIDIS[:, c]) for c in range(3)], axis=1).round().astype(np.uint8)


def scalar_uri(values: NDArray[np.float64], scale: Scale) -> str:
    """Values (H, W) on a colour scale; 0, no valid value, is grey."""
    span = max(scale.high - scale.low, 1e-9)
    position = np.clip((values - scale.low) / span, 0, 1)
    indices = np.where(values > 0, (position * (_STEPS - 1)).round(), _INVALID).astype(np.uint8)
    palette = np.concatenate([viridis(np.linspace(0, 1, _STEPS)), np.array([_INVALID_COLOUR], dtype=np.uint8)])
    return png_uri(indices, palette)


def scale_uri() -> str:
    """The colour scale as a column of pixels, its high end on top."""
    return png_uri(viridis(np.linspace(1, 0, _STEPS))[:, None])


def mask_uri(classes: NDArray[Any], colours: Pixels) -> str:
    """Classes (H, W) in their colours; pixels of no class are transparent."""
    count = min(len(colours), IGNORED_CLASS)
    indices = np.where(classes < count, classes, count).astype(np.uint8)
    palette = np.concatenate([colours[:count], np.array([_INVALID_COLOUR], dtype=np.uint8)])
    return png_uri(indices, palette, clear=count)


def thumbnail_uri(image: Pixels) -> str:
    """An image (H, W, 3), smaller: to tell it from others, not to look at its pixels."""
    small = Image.fromarray(image)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return png_uri(np.asarray(small))


def class_colours(count: int) -> Pixels:
    """A colour a class (count, 3), none twice: twelve that colour-blind people tell apart, then shades of them."""
    index = np.arange(count)
    colours = _CLASS_COLOURS[index % len(_CLASS_COLOURS)]
    shade = np.array(_SHADES)[index // len(_CLASS_COLOURS) % len(_SHADES)][:, None]
    mixed = np.where(shade >= 0, colours + shade * (255 - colours), colours * (1 + shade))
    # From the 37th on nobody tells shades apart any more, but what compares the pixels of two maps must.
    turn = (index // (len(_CLASS_COLOURS) * len(_SHADES)))[:, None] * np.array([3, 5, 7])
    return np.asarray((mixed.round() + turn) % 256, dtype=np.uint8)


def overlay(image: Pixels, classes: NDArray[Any], colours: Pixels) -> Pixels:
    """Class colours over the brightness of an image (H, W, 3); pixels of no class stay plain grey."""
    grey = np.repeat(luminance(image)[..., None], 3, axis=2)
    known = classes < len(colours)
    tinted = tint(colours[np.where(known, classes, 0)], grey)
    return np.asarray(np.where(known[..., None], tinted, grey).round(), dtype=np.uint8)


def legend_colours(colours: Pixels) -> list[str]:
    """Class colours as in `#0a7bc4`."""
    return ["#{:02x}{:02x}{:02x}".format(*(int(x) for x in c)) for c in colours]


def tint(colours: Pixels, grey: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    """Colours over the grey of an image."""
    return np.asarray(TINT * colours + (1 - TINT) * grey)


def luminance(image: Pixels) -> NDArray[np.float64]:
    """Brightness (H, W) in [0, 255] of an image (H, W, 3), by ITU-R BT.601."""
    return np.asarray(image @ np.array([0.299, 0.587, 0.114]))
