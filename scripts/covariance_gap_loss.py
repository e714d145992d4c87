"""`anyhead` with the covariance gap of clean and attacked features as a second term of its loss, after Dong et al.
(ECCV 2024), who find that robust accuracy falls with that gap.

    robustprobe harden --encoder bundled:scenes --dataset scenes \
        --method scripts/covariance_gap_loss.py:CovarianceGap --option weight=1 --out OUT

The gap belongs to a set of images, here those that are processed at once: with `--accumulate` above 1 and several
processes the sets are smaller.
"""

from typing import ClassVar, cast, final

import torch
from torch import Tensor

from robustprobe.core.types import Features
from robustprobe.defences import Defence, LayerFeatures, LossTerms, Options, squared_distance
from robustprobe.defences.anyhead import Anyhead


@final
class CovarianceGapOptions(Options):
    """`weight` multiplies the gap, which is in units of the features' variance."""

    weight: float = 1.0


@final
class CovarianceGap(Defence):
    """Loss: d(f_R(x'), f(x)) + w v |C' - C| / |C|. d and inner attack are those of `anyhead`; C and C' are covariances
    of f(x) and f_R(x') over images, v the trace of C; gap and v are means over class tokens and averaged patch tokens.
    """

    recipe: ClassVar = Anyhead.recipe
    options_kind: ClassVar = CovarianceGapOptions
    loss_reads_own: ClassVar = False

    def raised(self, attacked: list[Features], own: list[Features], clean: list[Features], progress: float) -> Tensor:
        return squared_distance(attacked, clean, self.tokens)

    def lowered(self, seen: LayerFeatures) -> LossTerms:
        moved = squared_distance(seen.attacked, seen.clean, self.tokens)
        pairs = list(zip(_vectors(seen.clean[-1]), _vectors(seen.attacked[-1]), strict=True))
        gap = torch.stack([covariance_gap(clean, attacked) for clean, attacked in pairs]).mean()
        variance = torch.stack([clean.var(0).sum() for clean, _ in pairs]).mean()
        term = cast(CovarianceGapOptions, self.options).weight * variance * gap
        return LossTerms(moved + term, {"moved": moved, "covariance gap": gap.expand_as(moved)})


def covariance_gap(clean: Tensor, attacked: Tensor) -> Tensor:
    """|C' - C| / |C| with Frobenius norms, of features (N, D) of N images: a number."""
    before, after = clean.T.cov(), attacked.T.cov()
    gap: Tensor = torch.linalg.matrix_norm(after - before) / torch.linalg.matrix_norm(before)
    return gap


def _vectors(features: Features) -> tuple[Tensor, Tensor]:
    return features.cls, features.patches.mean((2, 3))
