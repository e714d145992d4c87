"""Losses of gallery poisoning: by how much a planted item beats the last one that each search returns, (B, Q), to one
number per image, (B,).
"""

from torch import Tensor

from robustprobe.core.sums import image_sums


def soft_count(margin: Tensor, width: float) -> Tensor:
    """The share of searches that return the item, with a sigmoid of a width in place of a step."""
    return image_sums((margin / width).sigmoid()) / margin.shape[1]


def mean_margin(margin: Tensor) -> Tensor:
    """The mean margin: it draws the item towards the middle of all searches."""
    return image_sums(margin) / margin.shape[1]
