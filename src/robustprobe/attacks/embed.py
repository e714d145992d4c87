"""EmbedAttack: moves the embedding away from the clean one; uses no head and no label (Kowalczuk et al. 2024)"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe.attacks._embedding_objectives import embedding_objective
from robustprobe.attacks._phases import GradientAttack
from robustprobe.attacks._search import Objective
from robustprobe.attacks.base import Victim


@final
class EmbedAttack(GradientAttack):
    """Raises the squared L2 distance between the embeddings of the adversarial and the clean image.

    The gradient is zero at the clean image itself, so the attack needs its random start.
    """

    access: ClassVar = "encoder"
    citation: ClassVar = (
        "Kowalczuk et al., Benchmarking Robust Self-Supervised Learning Across Diverse Downstream Tasks, "
        "ICML 2024 Workshop FM-Wild, arXiv:2407.12588"
    )

    def objective(self, victim: Victim, images: Tensor) -> Objective:
        return embedding_objective(victim, self.spec.objective or "l2", images)
