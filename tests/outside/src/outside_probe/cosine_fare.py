"""FARE's objective with cosine distances"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe.defences import Defence, LayerFeatures, Layers, LossTerms, Recipe, cosine_distance


@final
class CosineFare(Defence):
    """Inner attack and loss: 1 - cos of attacked features and the teacher's clean ones."""

    recipe: ClassVar = Recipe(optimiser="adamw", learning_rate=1e-4, epochs=1, eps=4 / 255, steps=3)
    loss_reads_own: ClassVar = False

    def raised(self, attacked: Layers, own: Layers, clean: Layers, progress: float) -> Tensor:
        return cosine_distance(attacked, clean, self.tokens)

    def lowered(self, seen: LayerFeatures) -> LossTerms:
        moved = cosine_distance(seen.attacked, seen.clean, self.tokens)
        return LossTerms(moved, {"moved": moved})
