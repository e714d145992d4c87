"""DepthPGD on the scale-invariant log loss of a depth network, with its variance term from the first step"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe.attacks._base import Victim
from robustprobe.attacks._gradient import Judged, Objective, SignGradientAttack
from robustprobe.losses import scale_invariant_log


@final
class DepthPgd(SignGradientAttack):
    """The training loss of the depth head, as in Kowalczuk et al. (2024), without the warm-up that hid its variance."""

    sees: ClassVar = "depth"

    def objective(self, victim: Victim, images: Tensor) -> Objective:
        target = victim.targets
        assert target is not None

        def judge(x: Tensor, step: int, steps: int) -> Judged:
            loss = scale_invariant_log(victim.function(x), target)
            return Judged(loss, loss)

        return judge
