"""TRADES on embeddings: clean features close to the teacher's, attacked ones close to the student's clean ones"""

from typing import ClassVar, cast, final

from torch import Tensor

from robustprobe.defences._distance import Layers, squared_distance, still
from robustprobe.defences.base import Defence, LayerFeatures, LossTerms, Options
from robustprobe.defences.fare import Fare


@final
class TradesOptions(Options):
    """`clean_weight` w in [0, 1] weighs the clean term, 1 - w the attacked one."""

    clean_weight: float = 0.5


@final
class TradesEmbed(Defence):
    """Inner attack: raise d(f_R(x'), f_R(x)). Loss: w d(f_R(x), f(x)) + (1 - w) d(f_R(x'), sg f_R(x)), d squared L2.

    The form of RobustVLM's `--trades`, after Zhang et al., ICML 2019; no published weight is known to us.
    """

    recipe: ClassVar = Fare.recipe
    options_kind: ClassVar = TradesOptions
    attack_reads_own: ClassVar = True

    def raised(self, attacked: Layers, own: Layers, clean: Layers, progress: float) -> Tensor:
        return squared_distance(attacked, own, self.tokens)

    def lowered(self, seen: LayerFeatures) -> LossTerms:
        weight = cast(TradesOptions, self.options).clean_weight
        drift = squared_distance(seen.own, seen.clean, self.tokens)
        moved = squared_distance(seen.attacked, still(seen.own), self.tokens)
        return LossTerms(weight * drift + (1 - weight) * moved, {"drift": drift, "moved": moved})
