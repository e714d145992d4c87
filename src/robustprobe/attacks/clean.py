"""No attack: the images as they are"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe.attacks._base import Attack, Victim


@final
class Clean(Attack):
    """Returns the images untouched."""

    sees: ClassVar = "nothing"

    def perturb(self, victim: Victim, images: Tensor, start: Tensor) -> Tensor:
        return images
