"""Losses of gallery poisoning: by how much a planted item beats the last one that each search returns, (B, Q), to one
number per image, (B,).
"""

import torch
from torch import Tensor

from robustprobe.core.sums import image_sums


def soft_count(margin: Tensor, width: float) -> Tensor:
    """The share of searches that return the item, with a sigmoid of a width in place of a step.

    NaN where a margin is not finite, which the sigmoid would hide.
    """
    share = torch.where(margin.isfinite(), (margin / width).sigmoid(), torch.nan)
    return image_sums(share) / margin.shape[1]


def mean_margin(margin: Tensor) -> Tensor:
    """The mean margin: it draws the item towards the middle of all searches."""
    return image_sums(margin) / margin.shape[1]
