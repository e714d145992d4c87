"""SegPGD: PGD on the pixel-wise cross-entropy of a segmenter (Gu et al., ECCV 2022)"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe.attacks._phases import GradientAttack
from robustprobe.attacks._search import Objective
from robustprobe.attacks._task_objectives import task_objective
from robustprobe.attacks.base import Victim


@final
class SegPgd(GradientAttack):
    """Weighs correct pixels first and wrong ones more and more; returns the iterate with most wrong pixels."""

    access: ClassVar = "segmentation"
    citation: ClassVar = "Gu et al., SegPGD, 2022, arXiv:2207.12391"

    def objective(self, victim: Victim, images: Tensor) -> Objective:
        return task_objective(victim, self.spec.objective or "segpgd", images)
