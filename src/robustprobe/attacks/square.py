"""Square attack: sees the model's answers only, no gradient (Andriushchenko et al. 2020)"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe.attacks._phases import GradientAttack
from robustprobe.attacks._search import Objective, Optimiser
from robustprobe.attacks._square import square
from robustprobe.attacks._task_objectives import default_loss, task_objective
from robustprobe.attacks.base import Victim

LOSSES = {"classification": "margin", "segmentation": "ce", "depth": "rmse"}


@final
class Square(GradientAttack):
    """`steps` is the number of queries. On classifiers the loss is the margin, as its authors' is."""

    access: ClassVar = "task"
    citation: ClassVar = "Andriushchenko et al., Square Attack, 2020, arXiv:1912.00049"
    steps: ClassVar = 1000

    def optimiser(self) -> Optimiser:
        return square

    def objective(self, victim: Victim, images: Tensor) -> Objective:
        name = self.spec.objective or LOSSES.get(victim.task) or default_loss(victim)
        return task_objective(victim, name, images)
