"""How learning rate, eps and averaged weights change over a run."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def rate_factor(step: int, total: int, warmup: float) -> float:
    """Linear warm-up over a share of the updates, then half a cosine towards 0; in (0, 1]."""
    warm = round(warmup * total)
    if step < warm:
        return (step + 1) / warm
    return (1 + math.cos(math.pi * (step - warm) / max(1, total - warm))) / 2


def eps_factor(step: int, total: int, ramp: float) -> float:
    """Share of the full eps at an update: linear over a share of the updates, then 1."""
    growing = round(ramp * total)
    return min(1.0, (step + 1) / growing) if growing else 1.0


@torch.no_grad()
def average(mean: Mapping[str, Tensor], now: Mapping[str, Tensor], decay: float) -> None:
    """Move an exponential moving average of weights towards those of now, in place."""
    for name, value in mean.items():
        value.lerp_(now[name].to(value), 1 - decay) if value.is_floating_point() else value.copy_(now[name])
