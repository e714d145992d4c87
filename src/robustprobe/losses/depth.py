"""Losses of depth maps: depths and labels (B, h, w) in metres to one number per image, (B,).

Labels are 0 where the depth is unknown. The loss of an image without labels is 0.
"""

import math

import torch
from torch import Tensor

from robustprobe.losses._masked import TINY, masked_mean

SILOG_MEAN_WEIGHT = 0.15
DELTA_1 = 1.25


def scale_invariant_log(depth: Tensor, target: Tensor) -> Tensor:
    """Scale-invariant log loss (Eigen et al. 2014) with its variance term.

    sqrt(Var[g] + 0.15 E[g]^2) with g = log prediction - log target over the pixels with target > 0.
    """
    g, mask = log_ratio(depth, target)
    mean = masked_mean(g, mask)
    variance = masked_mean((g - mean[:, None]).square(), mask)
    return (variance + SILOG_MEAN_WEIGHT * mean.square() + TINY).sqrt()


def gradient_matching(depth: Tensor, target: Tensor, scales: int = 4) -> Tensor:
    """Gradient matching (Li & Snavely 2018; Ranftl et al. 2020): absolute differences of the log ratio of neighbours.

    Mean over four scales: neighbours along height and along width, both with a label, in every 1st, 2nd, 4th and 8th
    row and column of one image.
    """
    valid = target > 0
    g = log_ratio(depth, target)[0].view_as(target)
    total = depth.new_zeros(len(depth))
    for scale in range(scales):
        step = 2**scale
        h, known = g[:, ::step, ::step], valid[:, ::step, ::step]
        down = masked_mean((h[:, 1:] - h[:, :-1]).abs().flatten(1), (known[:, 1:] & known[:, :-1]).flatten(1))
        along = masked_mean((h[..., 1:] - h[..., :-1]).abs().flatten(1), (known[..., 1:] & known[..., :-1]).flatten(1))
        total = total + down + along
    return total / scales


def rmse(depth: Tensor, target: Tensor) -> Tensor:
    """Root mean squared error over the valid pixels, in metres."""
    mask = (target > 0).flatten(1)
    return (masked_mean((depth - target).flatten(1).square(), mask) + TINY).sqrt()


def log_l1(depth: Tensor, target: Tensor) -> Tensor:
    """Mean of |log prediction - log target|."""
    g, mask = log_ratio(depth, target)
    return masked_mean(g.abs(), mask)


def abs_rel(depth: Tensor, target: Tensor) -> Tensor:
    """Mean of |prediction - target| / target."""
    mask = (target > 0).flatten(1)
    return masked_mean((depth / torch.where(target > 0, target, 1) - 1).flatten(1).abs(), mask)


def delta_margin(depth: Tensor, target: Tensor) -> Tensor:
    """Mean of min(0, |log prediction - log target| - log 1.25): pushes pixels out of the delta-1
    range and ignores those outside it.
    """
    g, mask = log_ratio(depth, target)
    return masked_mean((g.abs() - math.log(DELTA_1)).clamp(max=0), mask)


def farther(depth: Tensor, target: Tensor) -> Tensor:
    """Mean of log prediction - log target: raises predicted depths."""
    g, mask = log_ratio(depth, target)
    return masked_mean(g, mask)


def nearer(depth: Tensor, target: Tensor) -> Tensor:
    """Mean of log target - log prediction: lowers predicted depths."""
    return -farther(depth, target)


def log_ratio(depth: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log prediction - log target, 0 where unknown, and whether it is known; each (B, P)."""
    valid = target > 0
    g = torch.where(valid, depth.clamp(min=TINY).log() - torch.where(valid, target, 1).log(), 0)
    return g.flatten(1), valid.flatten(1)
