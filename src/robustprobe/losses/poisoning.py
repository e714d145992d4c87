"""Losses of gallery poisoning: by how much a planted item beats the last one that each search returns, (B, Q), to one
number per image, (B,).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from robustprobe.core.sums import image_sums


def soft_count(margin: Tensor, width: float) -> Tensor:
    """The share of searches that return the item, with a sigmoid of a width in place of a step.

    NaN where a margin is not finite, which the sigmoid would hide.
    """
    # Not `sigmoid`: in the last elements of a tensor torch rounds it otherwise, and an image alone and in a batch would
    # differ.
    sigmoid = F.logsigmoid(margin / width).exp()
    share = torch.where(margin.isfinite(), sigmoid, torch.nan)
    return image_sums(share) / margin.shape[1]


def mean_margin(margin: Tensor) -> Tensor:
    """The mean margin: it draws the item towards the middle of all searches."""
    return image_sums(margin) / margin.shape[1]
