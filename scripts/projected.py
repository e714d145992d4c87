"""DeACL behind a projector, as in its authors' code; an example of a defence in a user's own file.

    robustprobe harden --encoder bundled:scenes --dataset scenes --method scripts/projected.py:ProjectedDeacl --out OUT

Encoders that can be downloaded come without the projector of their pre-training, so one is fitted to the frozen teacher
first: InfoNCE between two random crops of each image (SimCLR, Chen et al. 2020). The student's
copy is trained with the student.
"""

import copy
from typing import ClassVar, final

import torch.nn.functional as F
from torch import Tensor, nn

from robustprobe import UserError
from robustprobe.core.types import Features
from robustprobe.defences import Defence, FitSurrogates, LayerFeatures, LossTerms, Recipe, fitted_projector
from robustprobe.encoders import Encoder


@final
class ProjectedDeacl(Defence):
    """DeACL's two terms between projected class tokens. The teacher's projector is frozen after its fit."""

    recipe: ClassVar = Recipe(optimiser="sgd", learning_rate=0.05, epochs=100, batch_size=256, eps=8 / 255, steps=5)

    def prepare(self, teacher: Encoder, images: Tensor, fit_surrogates: FitSurrogates) -> None:
        if self.tokens != "cls" or self.layers != (-1,):
            raise UserError("ProjectedDeacl reads the last class token alone; leave out --tokens and --layer.")
        self.projector = fitted_projector(teacher, images)
        # In a list: a part of this module would be trained.
        self.kept = [copy.deepcopy(self.projector).requires_grad_(False)]

    def raised(self, attacked: list[Features], own: list[Features], clean: list[Features], progress: float) -> Tensor:
        return distance(self.projector, attacked, self.kept[0], clean)

    def lowered(self, seen: LayerFeatures) -> LossTerms:
        drift = distance(self.projector, seen.own, self.kept[0], seen.clean)
        moved = distance(self.projector, seen.attacked, self.projector, seen.own)
        return LossTerms(drift + 2 * moved, {"drift": drift, "moved": moved})


def distance(projector: nn.Module, a: list[Features], other: nn.Module, b: list[Features]) -> Tensor:
    """1 - cosine of the last layers' projected class tokens, (B,)."""
    return 1 - F.cosine_similarity(projector(a[-1].cls), other(b[-1].cls), dim=-1)
