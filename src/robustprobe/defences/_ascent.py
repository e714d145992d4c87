"""The inner attack of every defence: sign steps up an objective from a random start, last iterate."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustprobe.core.fast_linear import fast_linear
from robustprobe.core.threat import Linf, Threat


class InnerAttack(NamedTuple):
    """How far images are moved, and how: `step_share` of eps a step, with `momentum` of the directions so far."""

    threat: Threat
    steps: int
    step_share: float = 0.25
    momentum: float = 0.0

    def at(self, factor: float) -> "InnerAttack":
        """The same with a ball `factor` times as large."""
        return self._replace(threat=self.threat.resized(factor))


def linf(eps: float, steps: int, step_share: float = 0.25, momentum: float = 0.0) -> InnerAttack:
    """Every pixel value moves by at most eps."""
    return InnerAttack(Linf(eps), steps, step_share, momentum)


def ascend(
    objective: Callable[[Tensor, float], Tensor],
    images: Tensor,
    generators: Sequence[torch.Generator],
    ball: InnerAttack,
    precision: str = "fp32",
) -> Tensor:
    """Images (B, 3, H, W) inside ball and box that raise an objective of images and share of steps done, (B,)."""
    threat, step = ball.threat, ball.step_share * ball.threat.eps
    moved = threat.project(images + threat.noise(images, generators), images)
    velocity = torch.zeros_like(images)
    for number in range(ball.steps):
        moved = moved.detach().requires_grad_(True)
        with fast_linear():
            with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
                value = objective(moved, number / ball.steps)
            (gradient,) = torch.autograd.grad(value.float().sum(), moved)
        velocity = ball.momentum * velocity + gradient.sign() if ball.momentum else gradient
        moved = threat.project(threat.ascend(moved.detach(), velocity, step), images)
    return moved.detach()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside, no parameter asks for a gradient: an attack needs that of the images alone."""
    asking = [p for p in module.parameters() if p.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
