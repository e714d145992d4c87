"""Auto-PGD on the loss of any task: no step size to choose (Croce & Hein 2020)"""

from typing import ClassVar, cast, final

from torch import Tensor

from robustprobe.attacks._apgd import apgd
from robustprobe.attacks._phases import GradientAttack
from robustprobe.attacks._search import Objective, Optimiser
from robustprobe.attacks._task_objectives import task_objective
from robustprobe.attacks.base import Victim
from robustprobe.core.types import AttackLosses


@final
class Apgd(GradientAttack):
    """Adaptive steps on the first of the task's losses, the strongest alone: cross-entropy, CosPGD's, RMSE."""

    access: ClassVar = "task"
    steps: ClassVar = 50

    def optimiser(self) -> Optimiser:
        return apgd

    def objective(self, victim: Victim, images: Tensor) -> Objective:
        return task_objective(victim, self.spec.objective or cast(AttackLosses, victim.attack_losses).default, images)
