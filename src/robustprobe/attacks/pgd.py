"""PGD on the cross-entropy of a classifier (Madry et al. 2018)"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe.attacks._phases import GradientAttack
from robustprobe.attacks._search import Objective
from robustprobe.attacks._task_objectives import task_objective
from robustprobe.attacks.base import Victim


@final
class Pgd(GradientAttack):
    """An image counts as fooled if any visited iterate fools the classifier."""

    access: ClassVar = "classification"
    citation: ClassVar = (
        "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, 2018, arXiv:1706.06083"
    )

    def objective(self, victim: Victim, images: Tensor) -> Objective:
        return task_objective(victim, self.spec.objective or "ce", images)
