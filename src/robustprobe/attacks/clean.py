"""No attack: the images unchanged"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe.attacks._search import Passes, PerImageRandom, SearchResult, unjudged
from robustprobe.attacks.base import Attack, Victim
from robustprobe.core.types import AttackLosses


@final
class Clean(Attack):
    """Returns the images untouched."""

    access: ClassVar = "nothing"
    warm_start: ClassVar = False
    steps: ClassVar = 1

    def passes(self, losses: AttackLosses | None = None) -> Passes:
        return Passes(0, 0)

    def perturb(
        self, victim: Victim, images: Tensor, randomness: PerImageRandom, previous: Tensor | None
    ) -> SearchResult:
        return unjudged(images)
