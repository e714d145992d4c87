"""Sim-CLIP (Hossain and Imteaj 2024): attacked features close to the clean ones of the student itself; no teacher"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe.defences._distance import Layers, cosine_distance, still
from robustprobe.defences.base import Defence, LayerFeatures, LossTerms
from robustprobe.defences.fare import Fare


@final
class SimClip(Defence):
    """Inner attack: raise 1 - cos(f_R(x'), f_R(x)). Loss: the same, with a stop-gradient on each side in turn, halved.

    Nothing ties the student to its teacher but the start.
    """

    recipe: ClassVar = Fare.recipe
    attack_reads_own: ClassVar = True

    def raised(self, attacked: Layers, own: Layers, clean: Layers, progress: float) -> Tensor:
        return cosine_distance(attacked, own, self.tokens)

    def lowered(self, seen: LayerFeatures) -> LossTerms:
        there = cosine_distance(seen.attacked, still(seen.own), self.tokens)
        back = cosine_distance(still(seen.attacked), seen.own, self.tokens)
        drift = cosine_distance(still(seen.own), seen.clean, self.tokens)
        return LossTerms((there + back) / 2, {"drift": drift, "moved": there.detach()})
