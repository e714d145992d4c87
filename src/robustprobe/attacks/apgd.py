"""Auto-PGD: PGD with an adaptive step size, on any task (Croce and Hein, ICML 2020)"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe.attacks._apgd import apgd
from robustprobe.attacks._phases import SEARCH_TUNING, GradientAttack
from robustprobe.attacks._search import Objective, Optimiser, Passes, ascent_passes
from robustprobe.attacks._staged import staged_apgd, staged_passes
from robustprobe.attacks._task_objectives import default_objective
from robustprobe.attacks.base import LOOKS, Victim
from robustprobe.core.threat import L1
from robustprobe.core.types import AttackLosses


@final
class Apgd(GradientAttack):
    """Adaptive steps on the first of the task's losses, the strongest alone: cross-entropy, CosPGD's, RMSE.

    Under L1 it is l1-APGD (Croce & Hein, ICML 2021, "Mind the box"), from balls of 3, 2 and 1 eps.
    """

    access: ClassVar = "task"
    citation: ClassVar = (
        "Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free "
        "Attacks, 2020, arXiv:2003.01690"
    )
    steps: ClassVar = 50
    tuning: ClassVar = SEARCH_TUNING

    def passes(self, losses: AttackLosses | None = None) -> Passes:
        search = (staged_passes if self._staged else ascent_passes)(self.spec.steps).times(self.spec.restarts)
        return search._replace(forwards=search.forwards + LOOKS)

    def optimiser(self) -> Optimiser:
        return staged_apgd if self._staged else apgd

    @property
    def _staged(self) -> bool:
        return isinstance(self.threat, L1)

    def objective(self, victim: Victim, images: Tensor) -> Objective:
        return default_objective(victim, self.spec.objective, images)
