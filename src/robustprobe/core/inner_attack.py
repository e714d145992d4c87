"""The attack inside training, of defences and of heads: PGD from a random start, last iterate."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robustprobe.core.ascent import projected_ascent
from robustprobe.core.fast_linear import fast_linear
from robustprobe.core.threat import Linf, Threat


class InnerAttack(NamedTuple):
    """Threat and schedule of the inner attack: a step is `step_share` of eps, `momentum` weighs the earlier signs."""

    threat: Threat
    steps: int
    step_share: float = 0.25
    momentum: float = 0.0

    def at(self, factor: float) -> "InnerAttack":
        """The same attack with `factor` of its eps."""
        return self._replace(threat=self.threat.resized(factor))


def linf(eps: float, steps: int, step_share: float = 0.25, momentum: float = 0.0) -> InnerAttack:
    """An inner attack under Linf: every pixel value changes by at most eps."""
    return InnerAttack(Linf(eps), steps, step_share, momentum)


def ascend(
    objective: Callable[[Tensor, float], Tensor],
    images: Tensor,
    generators: Sequence[torch.Generator],
    ball: InnerAttack,
    precision: str = "fp32",
) -> Tensor:
    """Adversarial images (B, 3, H, W) inside ball and box.

    Args:
        objective: what is raised: images and the share of steps done to a value (B,) per image.
        generators: for the random start, one per image.
        precision: `bf16` runs the objective under autocast.
    """

    def gradient(moved: Tensor, number: int) -> tuple[Tensor, None]:
        moved = moved.detach().requires_grad_(True)
        with fast_linear():
            with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
                value = objective(moved, number / ball.steps)
            return torch.autograd.grad(value.float().sum(), moved)[0], None

    threat = ball.threat
    start = threat.project(images + threat.noise(images, generators), images)
    step_size = ball.step_share * threat.eps
    return projected_ascent(
        threat, images, start, gradient, steps=ball.steps, step_size=step_size, momentum=ball.momentum
    )
