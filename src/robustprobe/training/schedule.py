"""How learning rate, eps and averaged weights change over a run.

Learning rate and eps are functions of the update alone, so that a continued run has the same ones to the bit.
"""

import math

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def scheduled(optimiser: Optimizer, total: int, warmup: float, done: int) -> LambdaLR:
    """The learning rate of a run of `total` updates, from update `done` on; see `rate_factor`."""
    for group in optimiser.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return LambdaLR(optimiser, lambda step: rate_factor(step, total, warmup), done - 1)


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


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a model's weights, which begins at those of now; buffers are copied."""
    mean = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    mean.update_parameters(model)
    return mean
