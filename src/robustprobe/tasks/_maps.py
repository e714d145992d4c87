"""Label maps and output maps at another size."""

import torch.nn.functional as F
from torch import Tensor


def fit_labels(target: Tensor, size: tuple[int, int]) -> Tensor:
    """Label maps (B, h, w) or (B, c, h, w) at another size, by nearest pixel; labels (B,) stay as they are."""
    if target.ndim == 1 or target.shape[-2:] == size:
        return target
    maps = target if target.ndim == 4 else target[:, None]
    found = F.interpolate(maps.float(), size=size, mode="nearest-exact").to(target.dtype)
    return found if target.ndim == 4 else found[:, 0]


def resize(output: Tensor, size: tuple[int, int]) -> Tensor:
    """Output maps (B, C, h, w) at another size, bilinearly."""
    if output.shape[-2:] == size:
        return output
    return F.interpolate(output, size=size, mode="bilinear", align_corners=False)
