"""CosPGD on a segmenter: pixels weighted by how well prediction and label agree (Agnihotri et al., ICML 2024)"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe.attacks._phases import GradientAttack
from robustprobe.attacks._search import Objective
from robustprobe.attacks._task_objectives import task_objective
from robustprobe.attacks.base import Victim


@final
class CosPgd(GradientAttack):
    """Cross-entropy weighted by the cosine of softmax and one-hot label, as in the authors' package."""

    access: ClassVar = "segmentation"
    citation: ClassVar = "Agnihotri et al., CosPGD, 2024, arXiv:2302.02213"

    def objective(self, victim: Victim, images: Tensor) -> Objective:
        return task_objective(victim, self.spec.objective or "cospgd", images)
