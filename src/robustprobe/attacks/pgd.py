"""PGD on the cross-entropy of a classifier (Madry et al. 2018)"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe.attacks._base import Victim
from robustprobe.attacks._gradient import Judged, Objective, SignGradientAttack
from robustprobe.losses import cross_entropy


@final
class Pgd(SignGradientAttack):
    """An image counts as fooled if any visited iterate fools the classifier."""

    sees: ClassVar = "classification"

    def objective(self, victim: Victim, images: Tensor) -> Objective:
        target = victim.targets
        assert target is not None

        def judge(x: Tensor, step: int, steps: int) -> Judged:
            logits = victim.function(x)
            loss = cross_entropy(logits, target)
            fooled = logits.argmax(1) != target
            # loss / (1 + loss) grows with the loss and stays below 1: fooling comes first, the loss second.
            return Judged(loss, fooled.double() + (loss / (1 + loss)).double())

        return judge
