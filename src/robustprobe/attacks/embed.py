"""EmbedAttack: moves the embedding, knows no head and no label (Kowalczuk et al. 2024)"""

from typing import ClassVar, final

import torch
from torch import Tensor

from robustprobe.attacks._base import Victim
from robustprobe.attacks._gradient import Judged, Objective, SignGradientAttack
from robustprobe.losses import embedding_distance, squared_distance
from robustprobe.types import Features


@final
class EmbedAttack(SignGradientAttack):
    """Ascends the squared L2 distance between the embeddings of the adversarial and the clean image.

    The gradient is zero at the clean image itself, so the attack needs its random start.
    """

    sees: ClassVar = "encoder"

    def objective(self, victim: Victim, images: Tensor) -> Objective:
        with torch.no_grad():
            clean = victim.function(images)

        def judge(x: Tensor, step: int, steps: int) -> Judged:
            answer = victim.function(x)
            same = isinstance(answer, Features)
            distance = embedding_distance(answer, clean) if same else squared_distance(answer, clean)
            return Judged(distance, distance)

        return judge
