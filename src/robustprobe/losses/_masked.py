"""Means per image over the valid pixels."""

import torch
from torch import Tensor

from robustprobe.core.sums import image_sums

TINY = 1e-8


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean (B,) over the last axis where `mask` is true; 0 where it is nowhere true."""
    return image_sums(torch.where(mask, values, 0)) / mask.count_nonzero(1).clamp(min=1)
