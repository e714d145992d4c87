"""Encoders of low feature rank: a linear map of rank K behind the last block of another encoder."""

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn

from robustprobe.core.types import Features
from robustprobe.encoders._timm import TimmMap, TimmViT
from robustprobe.encoders.base import Encoder


@final
class LowRankEncoder(Encoder):
    """Class token and patch tokens of the last block, each through two linear maps: (D,) to (K,) and back to (D,).

    The number of channels stays D. Features of earlier blocks are unchanged, and as vulnerable as before.
    """

    def __init__(self, base: TimmViT | TimmMap, feature_rank: int) -> None:
        super().__init__(base.card)
        self.base = base
        self.cls, self.patch = (_bottleneck(width, feature_rank) for width in base.card.widths)

    def settings(self) -> list[int | float | str]:
        return ["narrowed", *self.base.settings()]

    def features(self, images: Tensor) -> Features:
        return self._reduced(self.base.features(images))

    def readable_blocks(self, count: int) -> int:
        return self.base.readable_blocks(count)

    def layers(self, images: Tensor, which: Sequence[int]) -> list[Features]:
        last = (-1, self.base.depth - 1)
        found = self.base.layers(images, which)
        return [self._reduced(f) if n in last else f for n, f in zip(which, found, strict=True)]

    def _reduced(self, features: Features) -> Features:
        patches: Tensor = self.patch(features.patches.movedim(1, -1)).movedim(-1, 1)
        return Features(self.cls(features.cls), patches)


def _bottleneck(width: int, feature_rank: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, feature_rank, bias=False), nn.Linear(feature_rank, width))
