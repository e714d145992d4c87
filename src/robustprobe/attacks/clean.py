"""No attack: the images as they are"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe.attacks._search import PerImageRandom, SearchResult, unjudged
from robustprobe.attacks.base import Attack, Victim


@final
class Clean(Attack):
    """Returns the images untouched."""

    access: ClassVar = "nothing"
    steps: ClassVar = 1

    def perturb(
        self, victim: Victim, images: Tensor, randomness: PerImageRandom, previous: Tensor | None
    ) -> SearchResult:
        return unjudged(images)
