"""LORE (Khodabandeh et al. 2025): FARE with an upper bound on the drift of clean features"""

from typing import ClassVar, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustprobe.core.types import Features
from robustprobe.defences._distance import Layers, squared_distance
from robustprobe.defences.base import Defence, FitSurrogates, LayerFeatures, LossTerms, Options
from robustprobe.defences.fare import Fare
from robustprobe.encoders import Encoder


@final
class LoreOptions(Options):
    """`rho` bounds the clean distance, as a share of the squared size of the teacher's features."""

    rho: float = 0.1
    multiplier_rate: float = 10.0
    """Weight of the multiplier's own objective: how fast it answers to a violated bound, against the student."""


@final
class Lore(Defence):
    """min f_R, max lambda >= 0: d(f_R(x'), f(x)) + lambda(x) (d(f_R(x), f(x)) - rho |f(x)|^2), where d is squared L2.

    Inner attack: raise d(f_R(x'), f(x)). lambda is a softplus of a linear function of the teacher's class token, and
    rises by gradient ascent in the same update; the paper's multiplier network and its separate updates are larger.
    """

    recipe: ClassVar = Fare.recipe
    options_kind: ClassVar = LoreOptions

    def prepare(self, teacher: Encoder, images: Tensor, fit_surrogates: FitSurrogates) -> None:
        self.multiplier = nn.Linear(self.look(teacher, images[:1])[-1].cls.shape[1], 1).to(images.device)
        with torch.no_grad():
            self.multiplier.weight.zero_()
            self.multiplier.bias.fill_(0.5)

    def raised(self, attacked: Layers, own: Layers, clean: Layers, progress: float) -> Tensor:
        return squared_distance(attacked, clean, self.tokens)

    def lowered(self, seen: LayerFeatures) -> LossTerms:
        options = cast(LoreOptions, self.options)
        nothing = [Features(torch.zeros_like(f.cls), torch.zeros_like(f.patches)) for f in seen.clean]
        size = squared_distance(seen.clean, nothing, self.tokens)
        moved = squared_distance(seen.attacked, seen.clean, self.tokens)
        drift = squared_distance(seen.own, seen.clean, self.tokens)
        weight = F.softplus(self.multiplier(F.normalize(seen.clean[-1].cls, dim=1))[:, 0])
        excess = drift - options.rho * size
        # Of value zero: its gradient raises the multiplier where the bound is violated.
        share = (excess / size).detach()
        ascent = options.multiplier_rate * (weight.detach() - weight) * share
        loss = moved + weight.detach() * excess + ascent
        return LossTerms(loss, {"drift": drift, "moved": moved, "multiplier": weight, "excess": excess / size})
