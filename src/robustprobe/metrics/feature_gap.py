"""How far an attack changes the covariance of features: the gap between clean and attacked ones.

After Dong et al. (ECCV 2024), who find that robust accuracy falls with the gap of the variance of features.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustprobe.metrics.intervals import Estimate

Floats = NDArray[np.floating]
Whole = NDArray[np.int64]
GROUPS = 20
_NORMAL_QUANTILE = 1.959963984540054


class FeatureGap(NamedTuple):
    """Relative differences of clean and attacked features: of their covariance, and of the variance of each channel."""

    covariance: Estimate
    variance: Estimate


def feature_gap(clean: Floats, attacked: Floats, groups: Whole | None = None) -> FeatureGap:
    """|C' - C| / |C| with Frobenius norms of covariances, and sum |v' - v| / sum v over variances of channels.

    Both are 0 where the attack changes nothing, and NaN where clean features do not vary. Intervals are those of a
    jackknife over 20 groups of images (Efron and Stein 1981), without an upper end where there are too few images.

    Args:
        clean: features (N, D) of images as they are; `attacked` those of the same images, attacked.
        groups: (N,) the group of each image where images are not independent, such as videos.
    """
    # Covariances do not depend on the mean, and rounding does.
    first, second = (np.asarray(features, dtype=float) for features in (clean, attacked))
    pair = (first - first.mean(0), second - second.mean(0))
    whole = tuple(_Moments.of(features) for features in pair)
    value = _gaps(*whole)
    left = np.array([_gaps(*kept) for kept in _without_each(pair, whole, _parts(len(clean), groups))])
    spread = np.full(2, np.inf)
    if len(left) > 1:
        spread = np.sqrt((len(left) - 1) * left.var(0)) * _NORMAL_QUANTILE
    # Too few images for a covariance without one of them: nothing is known of the upper end.
    spread = np.where(np.isfinite(spread), spread, np.inf)
    return FeatureGap(
        *(Estimate(float(v), max(0.0, float(v - s)), float(v + s)) for v, s in zip(value, spread, strict=True))
    )


class _Moments(NamedTuple):
    """Number of images, the sum of their features (D,) and that of products (D, D)."""

    images: int
    total: Floats
    products: Floats

    @classmethod
    def of(cls, features: Floats) -> "_Moments":
        return cls(len(features), features.sum(0), features.T @ features)

    def without(self, other: "_Moments") -> "_Moments":
        return _Moments(self.images - other.images, self.total - other.total, self.products - other.products)

    @property
    def covariance(self) -> Floats:
        mean = self.total / self.images
        return self.products / self.images - np.outer(mean, mean)


def _gaps(clean: _Moments, attacked: _Moments) -> Floats:
    before, after = clean.covariance, attacked.covariance
    if not before.any():
        return np.full(2, np.nan)
    covariance = np.linalg.norm(after - before) / np.linalg.norm(before)
    variance = np.abs(np.diag(after - before)).sum() / np.diag(before).sum()
    return np.array([covariance, variance])


def _parts(count: int, groups: Whole | None) -> list[Whole]:
    """Places of the images of each group; without groups, or in a single one, 20 random ones of the same size."""
    if groups is not None and len(found := np.unique(groups)) > 1:
        return [np.flatnonzero(groups == group) for group in found]
    order = np.random.default_rng(0).permutation(count)
    return [part for part in np.array_split(order, min(GROUPS, count)) if len(part)]


def _without_each(
    pair: tuple[Floats, Floats], whole: tuple[_Moments, ...], parts: list[Whole]
) -> Iterator[tuple[_Moments, ...]]:
    for part in parts if len(parts) > 1 else []:
        yield tuple(moments.without(_Moments.of(features[part])) for features, moments in zip(pair, whole, strict=True))
