"""The one loop of projected gradient ascent; attacks differ in what they ascend."""

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple, final

import torch
from torch import Tensor

from robustprobe.attacks._base import Attack, Victim
from robustprobe.errors import UserError


class Judged(NamedTuple):
    """`loss` (B,) is what a step ascends; `rank` (B,) is what the best iterate has most of."""

    loss: Tensor
    rank: Tensor


Objective = Callable[[Tensor, int, int], Judged]
"""What an attack maximises, per image and never across images: images (B, 3, H, W), step 0 to `steps` - 1, and `steps`,
to loss and rank. A call with step equal to `steps` only asks for the rank."""


class SignGradientAttack(Attack):
    """Projected gradient ascent (Madry et al. 2018): `x <- project(x + step_size * sign(gradient))`.

    Keeps, image by image, the visited iterate of highest rank, the start included; or the last one, on request.
    """

    @abstractmethod
    def objective(self, victim: Victim, images: Tensor) -> Objective:
        """The objective for clean float32 images (B, 3, H, W)."""

    @final
    def perturb(self, victim: Victim, images: Tensor, start: Tensor) -> Tensor:
        objective, spec = self.objective(victim, images), self.spec
        current = start
        best, best_rank = start, torch.full((len(images),), -torch.inf, device=images.device, dtype=torch.float64)
        for step in range(spec.steps):
            current = current.detach().requires_grad_(True)
            loss, rank = finite(objective(current, step, spec.steps))
            (gradient,) = torch.autograd.grad(loss.sum(), current)
            current = current.detach()
            best, best_rank = keep_better(best, best_rank, current, rank)
            current = self.threat.project(self.threat.ascend(current, gradient, spec.step_size), images)
        if spec.iterate == "last":
            return current
        with torch.no_grad():
            _, rank = finite(objective(current, spec.steps, spec.steps))
        return keep_better(best, best_rank, current, rank)[0]


def keep_better(best: Tensor, best_rank: Tensor, images: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """The better of two batches image by image, and its rank."""
    better = rank.double() > best_rank
    return torch.where(better[:, None, None, None], images, best), torch.where(better, rank.double(), best_rank)


def finite(judged: Judged) -> Judged:
    """Raises UserError where a model's answer is NaN or infinite: it would count as a broken image."""
    if not torch.isfinite(judged.loss).all():
        raise UserError("the model's output gives a loss that is not finite; look for NaN or infinity in its output.")
    return Judged(judged.loss, judged.rank.detach())
