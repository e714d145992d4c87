"""Learning rate, eps and averaged weights over a run.

Learning rate and eps are functions of the update alone, so that a resumed run has the same ones, bit for bit.
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
    """Learning rate as a share of its peak: linear warm-up over a share of the updates, then half a cosine to 0."""
    warm = round(warmup * total)
    if step < warm:
        return (step + 1) / warm
    return (1 + math.cos(math.pi * (step - warm) / max(1, total - warm))) / 2


def eps_factor(step: int, total: int, ramp: float) -> float:
    """Share of the full eps at an update: it grows linearly over a share of the updates, then it is 1."""
    growing = round(ramp * total)
    return min(1.0, (step + 1) / growing) if growing else 1.0


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a model's weights that starts from the present ones; buffers are copied."""
    mean = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    mean.update_parameters(model)
    return mean
