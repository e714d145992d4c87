"""DepthPGD: PGD on the scale-invariant log loss of a depth network (Kowalczuk et al. 2024)"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe.attacks._phases import GradientAttack
from robustprobe.attacks._search import Objective
from robustprobe.attacks._task_objectives import task_objective
from robustprobe.attacks.base import Victim


@final
class DepthPgd(GradientAttack):
    """The training loss of the depth head, as in Kowalczuk et al. (2024), without the warm-up that hid its variance.

    Returns the iterate with the largest RMSE.
    """

    access: ClassVar = "depth"
    citation: ClassVar = (
        "Kowalczuk et al., Benchmarking Robust Self-Supervised Learning Across Diverse Downstream Tasks, "
        "ICML 2024 Workshop FM-Wild, arXiv:2407.12588"
    )

    def objective(self, victim: Victim, images: Tensor) -> Objective:
        return task_objective(victim, self.spec.objective or "silog", images)
