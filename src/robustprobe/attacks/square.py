"""Square attack: black-box random search, without gradients (Andriushchenko et al., ECCV 2020)"""

from typing import ClassVar, cast, final

from torch import Tensor

from robustprobe.attacks._phases import SEARCH_TUNING, GradientAttack
from robustprobe.attacks._search import Objective, Optimiser
from robustprobe.attacks._square import square
from robustprobe.attacks._task_objectives import task_objective
from robustprobe.attacks.base import Victim
from robustprobe.core.types import AttackLosses


@final
class Square(GradientAttack):
    """`steps` is the number of queries. On classifiers the loss is the margin, as its authors' is."""

    access: ClassVar = "task"
    uses_gradient: ClassVar = False
    citation: ClassVar = "Andriushchenko et al., Square Attack, 2020, arXiv:1912.00049"
    steps: ClassVar = 1000
    tuning: ClassVar = SEARCH_TUNING - {"bpda"}

    def optimiser(self) -> Optimiser:
        return square

    def objective(self, victim: Victim, images: Tensor) -> Objective:
        losses = cast(AttackLosses, victim.attack_losses)
        name = self.spec.objective or losses.black_box or losses.default
        return task_objective(victim, name, images)
