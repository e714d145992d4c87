"""DeACL (Zhang et al., ECCV 2022): clean features close to the teacher's, attacked ones close to the clean ones"""

from typing import ClassVar, cast, final

from torch import Tensor

from robustprobe.defences._distance import Layers, cosine_distance
from robustprobe.defences.base import Defence, LayerFeatures, LossTerms, Options, Recipe


@final
class DeaclOptions(Options):
    """`gamma` weighs the attacked term."""

    gamma: float = 2.0


@final
class Deacl(Defence):
    """Inner attack: raise 1 - cos(f_R(x'), f(x)). Loss: 1 - cos(f_R(x), f(x)) + gamma (1 - cos(f_R(x'), f_R(x))).

    No stop-gradient on f_R(x) in the second term. Published for ResNet-18 with SGD 0.5 and weight decay 5e-4 on
    CIFAR-10; the vision transformer of Kowalczuk et al. 2024 took 0.05 and no decay, which are the defaults here.
    """

    recipe: ClassVar = Recipe(optimiser="sgd", learning_rate=0.05, epochs=100, batch_size=256, eps=8 / 255, steps=5)
    options_kind: ClassVar = DeaclOptions

    def raised(self, attacked: Layers, own: Layers, clean: Layers, progress: float) -> Tensor:
        return cosine_distance(attacked, clean, self.tokens)

    def lowered(self, seen: LayerFeatures) -> LossTerms:
        drift = cosine_distance(seen.own, seen.clean, self.tokens)
        moved = cosine_distance(seen.attacked, seen.own, self.tokens)
        return LossTerms(drift + cast(DeaclOptions, self.options).gamma * moved, {"drift": drift, "moved": moved})
