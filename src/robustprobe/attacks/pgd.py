"""PGD on the default loss of a task, for a classifier the cross-entropy (Madry et al., ICLR 2018)"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe.attacks._phases import GradientAttack
from robustprobe.attacks._search import Objective
from robustprobe.attacks._task_objectives import default_objective
from robustprobe.attacks.base import Victim


@final
class Pgd(GradientAttack):
    """An image counts as fooled if any visited iterate fools the classifier; elsewhere the worst iterate is kept."""

    access: ClassVar = "classification"
    citation: ClassVar = (
        "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, 2018, arXiv:1706.06083"
    )

    def objective(self, victim: Victim, images: Tensor) -> Objective:
        return default_objective(victim, self.spec.objective, images)
