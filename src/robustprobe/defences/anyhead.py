"""anyhead (ours): FARE on class and patch tokens, then only the most robust feature directions are kept"""

from collections.abc import Sequence
from typing import ClassVar, Literal, cast, final

import torch
from torch import Tensor

from robustprobe.core.types import Features
from robustprobe.defences._distance import Layers, squared_distance
from robustprobe.defences.base import Defence, FitSurrogates, LayerFeatures, LossTerms, Options, Recipe
from robustprobe.encoders import Encoder
from robustprobe.losses.segmentation import segmentation_pixels, segpgd
from robustprobe.tasks import Head

Inner = Literal["distance", "heads", "alternate"]
STRIDE = 4
NOTHING_IGNORED = -1


@final
class AnyheadOptions(Options):
    """What the inner attack raises: the distance that training lowers, SegPGD's loss of surrogate heads (fitted
    on the teacher, without task labels), or one in every other update.
    """

    inner: Inner = "distance"


@final
class Anyhead(Defence):
    """Loss: the squared L2 distance of f_R(x') and f(x), of both kinds of tokens, and as in FARE no clean term. The
    features of the result lie in 16 directions (see `hardening._narrow`), so that no head leans on what attacks move.
    """

    recipe: ClassVar = Recipe(
        optimiser="adamw",
        learning_rate=1e-3,
        weight_decay=1e-4,
        betas=(0.9, 0.95),
        epochs=20,
        batch_size=64,
        eps=8 / 255,
        steps=5,
        tokens="both",
        feature_rank=16,
    )
    options_kind: ClassVar = AnyheadOptions
    loss_reads_own: ClassVar = False

    def prepare(self, teacher: Encoder, images: Tensor, fit_surrogates: FitSurrogates) -> None:
        inner = cast(AnyheadOptions, self.options).inner
        self.turns: list[str] = ["distance", "heads"] if inner == "alternate" else [inner]
        self.turn, size = self.turns[0], (images.shape[-2], images.shape[-1])
        self.size = (size[0] // STRIDE, size[1] // STRIDE)
        self.heads: Sequence[Head] = fit_surrogates(size) if "heads" in self.turns else []

    def redraw(self, step: int, generator: torch.Generator) -> None:
        self.turn = self.turns[step % len(self.turns)]

    def raised(self, attacked: Layers, own: Layers, clean: Layers, progress: float) -> Tensor:
        if self.turn == "heads":
            return self._unsettled(attacked[-1], clean[-1], progress)
        return squared_distance(attacked, clean, self.tokens)

    def lowered(self, seen: LayerFeatures) -> LossTerms:
        moved = squared_distance(seen.attacked, seen.clean, self.tokens)
        return LossTerms(moved, {"moved": moved})

    def _unsettled(self, attacked: Features, clean: Features, progress: float) -> Tensor:
        values = []
        for head in self.heads:
            answer = head(clean, self.size).argmax(1)
            values.append(segpgd(segmentation_pixels(head(attacked, self.size), answer, NOTHING_IGNORED), progress))
        return torch.stack(values).mean(0)
