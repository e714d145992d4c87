"""FARE (Schlarmann et al., ICML 2024): attacked features close to the teacher's clean features"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe.defences._distance import Layers, squared_distance
from robustprobe.defences.base import Defence, LayerFeatures, LossTerms, Recipe


@final
class Fare(Defence):
    """Inner attack and loss: the squared L2 distance of f_R(x') and f(x), summed over channels; no clean term.

    Published for CLIP: AdamW 1e-5, weight decay 1e-4, two epochs of ImageNet, 10 steps of 1/255 with momentum 0.9,
    which has no effect in the authors' program (see docs/guides/hardening.md) and has one here.
    """

    recipe: ClassVar = Recipe(
        optimiser="adamw",
        learning_rate=1e-5,
        weight_decay=1e-4,
        betas=(0.9, 0.95),
        epochs=2,
        batch_size=128,
        warmup=0.07,
        eps=4 / 255,
        steps=10,
        attack_momentum=0.9,
    )
    loss_reads_own: ClassVar = False

    def raised(self, attacked: Layers, own: Layers, clean: Layers, progress: float) -> Tensor:
        return squared_distance(attacked, clean, self.tokens)

    def lowered(self, seen: LayerFeatures) -> LossTerms:
        moved = squared_distance(seen.attacked, seen.clean, self.tokens)
        return LossTerms(moved, {"moved": moved})
