"""Uniform noise of the same size: the control every attack must beat"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe.attacks._base import Attack, Victim


@final
class Noise(Attack):
    """Returns the random start."""

    sees: ClassVar = "nothing"

    def perturb(self, victim: Victim, images: Tensor, start: Tensor) -> Tensor:
        return start
