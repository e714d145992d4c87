"""Uniform random noise of size eps: a control, which every attack should outperform"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe.attacks._search import Passes, PerImageRandom, SearchResult, everything, unjudged
from robustprobe.attacks.base import Attack, Victim
from robustprobe.core.types import AttackLosses


@final
class Noise(Attack):
    """Returns a random point of the ball."""

    access: ClassVar = "nothing"
    warm_start: ClassVar = False
    steps: ClassVar = 1

    def passes(self, losses: AttackLosses | None = None) -> Passes:
        return Passes(0, 0)

    def perturb(
        self, victim: Victim, images: Tensor, randomness: PerImageRandom, previous: Tensor | None
    ) -> SearchResult:
        noise = self.threat.noise(images, randomness.generators(everything(images)))
        return unjudged(self.threat.project(images + noise, images))
