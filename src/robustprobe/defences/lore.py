"""LORE (Khodabandeh et al., NeurIPS 2025): FARE with an upper bound on the drift of clean features"""

from typing import ClassVar, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustprobe.core.types import Features
from robustprobe.defences._distance import Layers, squared_distance
from robustprobe.defences.base import Defence, FitSurrogates, LayerFeatures, LossTerms, Options
from robustprobe.defences.fare import Fare
from robustprobe.encoders import Encoder

HIDDEN = 512
SMALL_WIDTH = 384


@final
class LoreOptions(Options):
    """`rho` bounds the clean distance, as a share of the squared size of the teacher's features; by default as
    published for DINOv2, 0.05 up to the width of ViT-S and 0.1 above. `multiplier_rate` is the learning rate of the
    multiplier.
    """

    rho: float | None = None
    multiplier_rate: float = 5e-4


@final
class Lore(Defence):
    """min f_R, max lambda >= 0: d(f_R(x'), f(x)) + lambda(x) (d(f_R(x), f(x)) - rho |f(x)|^2), where d is squared L2.

    Inner attack: raise d(f_R(x'), f(x)). lambda(x) is the softplus of a two-layer network of the teacher's class token
    (arXiv:2505.18884v2, section 5 and appendix C). The encoder descends five times on each batch; with the last of
    these, lambda ascends once.
    """

    recipe: ClassVar = Fare.recipe.model_copy(update={"attack_momentum": 0.0, "updates_per_batch": 5})
    options_kind: ClassVar = LoreOptions

    @property
    def own_rate(self) -> float | None:
        return cast(LoreOptions, self.options).multiplier_rate

    def prepare(self, teacher: Encoder, images: Tensor, fit_surrogates: FitSurrogates) -> None:
        width, given = teacher.card.widths.cls, cast(LoreOptions, self.options).rho
        self.rho = given if given is not None else 0.05 if width <= SMALL_WIDTH else 0.1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
        self.multiplier = net.to(images.device)

    def raised(self, attacked: Layers, own: Layers, clean: Layers, progress: float) -> Tensor:
        return squared_distance(attacked, clean, self.tokens)

    def lowered(self, seen: LayerFeatures) -> LossTerms:
        nothing = [Features(torch.zeros_like(f.cls), torch.zeros_like(f.patches)) for f in seen.clean]
        size = squared_distance(seen.clean, nothing, self.tokens)
        moved = squared_distance(seen.attacked, seen.clean, self.tokens)
        drift = squared_distance(seen.own, seen.clean, self.tokens)
        weight = F.softplus(self.multiplier(seen.clean[-1].cls)[:, 0])
        excess = drift - self.rho * size
        # Of value zero: its gradient raises the multiplier where the bound is violated.
        ascent = (weight.detach() - weight) * excess.detach()
        loss = moved + weight.detach() * excess + ascent
        return LossTerms(loss, {"drift": drift, "moved": moved, "multiplier": weight, "excess": excess / size})
