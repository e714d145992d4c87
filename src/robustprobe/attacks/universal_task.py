"""One perturbation for all images, made on training images against the model of a task, with their labels"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe.attacks._search import Objective
from robustprobe.attacks._task_objectives import default_objective
from robustprobe.attacks._universal import UniversalAttack
from robustprobe.attacks.base import Victim


@final
class UniversalTask(UniversalAttack):
    """Raises a loss of the task, its default one unless another is named."""

    access: ClassVar = "task"
    citation: ClassVar = "Moosavi-Dezfooli et al., Universal Adversarial Perturbations, 2017, arXiv:1610.08401"

    def objective(self, victim: Victim, images: Tensor) -> Objective:
        return default_objective(victim, self.spec.objective, images)
