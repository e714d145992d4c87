"""SegPGD on surrogate heads fitted without labels of the task: needs the encoder and the image only"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe.attacks._phases import GradientAttack
from robustprobe.attacks._search import Objective
from robustprobe.attacks._surrogate_objective import surrogate_objective
from robustprobe.attacks.base import Victim
from robustprobe.core.errors import UserError


@final
class Surrogate(GradientAttack):
    """SegPGD against small segmenters of place and colour, whose own answers to the clean image are the labels.

    They are fitted on generated scenes, so the attack needs the encoder and the image only: docs/concepts/attacks.md.
    """

    access: ClassVar = "encoder"

    def objective(self, victim: Victim, images: Tensor) -> Objective:
        if self.spec.objective:
            raise UserError(f"surrogate has its own objective; leave :{self.spec.objective} out.")
        return surrogate_objective(victim, "surrogate", images)
