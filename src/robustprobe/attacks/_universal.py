"""Attacks by one perturbation that is added to every image, made on training images."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar, NamedTuple, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor

from robustprobe.attacks._search import (
    Objective,
    Passes,
    PerImageRandom,
    SearchResult,
    everything,
    unjudged,
)
from robustprobe.attacks.base import Attack, Victim
from robustprobe.core.errors import UserError
from robustprobe.core.threat import image_generator
from robustprobe.core.types import AttackLosses

TRAIN_IMAGES = 256
"""Training images that a perturbation is made on, at most."""
BATCH = 32
"""Of so many of them a step takes the mean gradient."""
MOMENTUM = 0.9
SMALLEST_STEP = 0.05


class TrainBatch(NamedTuple):
    """Training images (B, 3, H, W) in [0, 1], and what the attack may see of them."""

    victim: Victim
    images: Tensor


TrainBatches = Callable[[], Iterator[TrainBatch]]
"""The training images from the beginning, batch by batch, always in the same order."""


class UniversalAttack(Attack):
    """Adds one perturbation to every image (Moosavi-Dezfooli et al. 2017); derived classes say what it maximises.

    It is made once, on training images, and applied to test images as it is: they have no part in it. `steps` are
    steps of its making, each on the next batch of training images.
    """

    warm_start: ClassVar = False
    uses_training: ClassVar = True
    norms: ClassVar = frozenset({"linf", "l2"})
    steps: ClassVar = 100
    tuning: ClassVar = frozenset({"judgements", "bpda", "eot_samples"})

    @abstractmethod
    def objective(self, victim: Victim, images: Tensor) -> Objective:
        """What the perturbation maximises, mean over images, for clean float32 images (B, 3, H, W)."""

    def passes(self, losses: AttackLosses | None = None) -> Passes:
        """None per test image; what making it takes is in `making`."""
        return Passes(0, 0)

    @final
    def making(self) -> Passes:
        """The passes that making the perturbation takes, all images together."""
        count = self.spec.steps * BATCH * self.spec.eot_samples
        return Passes(2 * count, count)

    @final
    def perturb(
        self, victim: Victim, images: Tensor, randomness: PerImageRandom, previous: Tensor | None
    ) -> SearchResult:
        if victim.universal is None:
            raise UserError(
                f"{self.spec.name} is made on training images, and these are none: run it on a dataset, with "
                "`robustprobe run` or robustprobe.evaluate."
            )
        made = victim.universal(self).to(images)[None]
        size = (images.shape[-2], images.shape[-1])
        if made.shape[-2:] != size:
            made = self.threat.clip(F.interpolate(made, size=size, mode="bilinear", antialias=True))
        return unjudged(self.threat.project(images + made, images))

    @final
    def made_on(self, batches: TrainBatches) -> Tensor:
        """The perturbation (3, H, W) in the ball: sign steps (under L2 along the gradient) on the mean over a batch.

        Gradients are averaged over steps with a decay of 0.9, and steps become shorter towards the end, so that it ends
        near what is best for all images and not for the last batch.
        """
        perturbation = velocity = None
        step, spec = 0, self.spec
        while step < spec.steps:
            before = step
            for victim, images in batches():
                if perturbation is None:
                    start = self.threat.noise(images[:1], [image_generator(spec.seed, "", spec.name, spec.objective)])
                    perturbation, velocity = start, torch.zeros_like(start)
                gradient = self._gradient(victim, images.float(), perturbation, step / spec.steps)
                velocity = MOMENTUM * cast(Tensor, velocity) + gradient / gradient.abs().mean().clamp(min=1e-30)
                size = spec.step_size * max(1 - step / spec.steps, SMALLEST_STEP)
                perturbation = self.threat.clip(self.threat.ascend(perturbation, velocity, size))
                step += 1
                if step == spec.steps:
                    break
            if step == before:
                raise UserError(f"{spec.name} has no training images to be made on.")
        return cast(Tensor, perturbation)[0].detach()

    def _gradient(self, victim: Victim, images: Tensor, perturbation: Tensor, progress: float) -> Tensor:
        """The gradient (1, 3, H, W) of the mean objective by the perturbation."""
        with torch.enable_grad():
            objective = self.objective(victim, images)
            moved = perturbation.detach().clone().requires_grad_(True)
            total = torch.zeros_like(moved)
            for _ in range(self.spec.eot_samples):
                judged = objective((images + moved).clamp(0, 1), everything(images), progress)
                total += torch.autograd.grad(judged.loss.mean(), moved)[0]
        return total.detach()
