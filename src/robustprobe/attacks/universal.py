"""One perturbation for all images, made on training images against the encoder; sees no head and no label"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe.attacks._embedding_objectives import embedding_objective
from robustprobe.attacks._search import Objective
from robustprobe.attacks._surrogate_objective import surrogate_objective
from robustprobe.attacks._universal import UniversalAttack
from robustprobe.attacks.base import Victim

SURROGATE = "surrogate"


@final
class Universal(UniversalAttack):
    """Raises the distance of embeddings, as `embed` does, or SegPGD's loss of surrogate heads (`:surrogate`)."""

    access: ClassVar = "encoder"
    citation: ClassVar = "Moosavi-Dezfooli et al., Universal Adversarial Perturbations, 2017, arXiv:1610.08401"

    def objective(self, victim: Victim, images: Tensor) -> Objective:
        if self.spec.objective == SURROGATE:
            return surrogate_objective(victim, "universal", images)
        return embedding_objective(victim, self.spec.objective or "l2", images)
