"""All corruptions by name, and one image under one of them."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Generator, Tensor

from robustprobe.core.corruption_names import check_corruption, check_severity
from robustprobe.corruptions import _blur, _colour, _files, _noise, _weather

Corruption = Callable[[Tensor, int, Generator], Tensor]
"""An image (3, H, W) float32 in [0, 1] on the CPU, a severity from 1 to 5 and the source of what is random, to a
corrupted image, not yet clipped.
"""
_ALL: tuple[Corruption, ...] = (
    *(_noise.gaussian_noise, _noise.shot_noise, _noise.impulse_noise, _noise.speckle_noise),
    *(_blur.defocus_blur, _blur.glass_blur, _blur.motion_blur, _blur.zoom_blur, _blur.gaussian_blur),
    *(_weather.snow, _weather.fog, _colour.brightness, _colour.contrast, _colour.saturate),
    *(_files.pixelate, _files.jpeg_compression, _files.webp_compression, _files.resize, _files.repost),
)
CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType({one.__name__: one for one in _ALL})
"""Corruptions by name."""


def corrupted(image: Tensor, name: str, severity: int, generator: Generator) -> Tensor:
    """An image (3, H, W) in [0, 1] under a corruption, in [0, 1], float32 on the CPU.

    Raises:
        UserError: no such corruption, or a severity that is not 1 to 5.
    """
    check_corruption(name)
    check_severity(severity)
    return CORRUPTIONS[name](image.detach().cpu().float().contiguous(), severity, generator).clamp(0, 1)
