"""Auto-PGD: PGD with an adaptive step size, on any task (Croce and Hein, ICML 2020)"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe.attacks._apgd import apgd
from robustprobe.attacks._phases import SEARCH_TUNING, GradientAttack
from robustprobe.attacks._search import Objective, Optimiser
from robustprobe.attacks._task_objectives import default_objective
from robustprobe.attacks.base import Victim


@final
class Apgd(GradientAttack):
    """Adaptive steps on the first of the task's losses, the strongest alone: cross-entropy, CosPGD's, RMSE."""

    access: ClassVar = "task"
    citation: ClassVar = (
        "Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free "
        "Attacks, 2020, arXiv:2003.01690"
    )
    steps: ClassVar = 50
    tuning: ClassVar = SEARCH_TUNING

    def optimiser(self) -> Optimiser:
        return apgd

    def objective(self, victim: Victim, images: Tensor) -> Objective:
        return default_objective(victim, self.spec.objective, images)
