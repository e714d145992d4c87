"""Means over the pixels that count."""

import torch
from torch import Tensor

TINY = 1e-8


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the last axis where `mask` holds, (B,); 0 where it holds nowhere."""
    return torch.where(mask, values, 0).sum(1) / mask.count_nonzero(1).clamp(min=1)
