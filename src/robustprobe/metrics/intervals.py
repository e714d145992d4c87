"""Intervals: how far a number could be from the one that endless images would give.

Not so for mIoU of few images and many rare classes: a class that is predicted and has no label counts as 0, so the
value is too low, and the bootstrap, which loses more classes, is lower still. There it is an interval of that set.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 2000
MOST_COUNTS = 2**24
BISECTIONS = 60
CONFIDENCE = 0.95
_NORMAL_QUANTILE = 1.959963984540054


class Estimate(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    ci_low: float
    ci_high: float


def bootstrap(
    columns: Mapping[str, Floats],
    statistic: Callable[[Mapping[str, Floats]], Floats],
    seed: int = 0,
    groups: NDArray[np.int64] | None = None,
) -> Estimate:
    """Percentile bootstrap over images (Efron 1979), or over groups of images, of a statistic of column sums.

    Args:
        columns: per-image contributions, each (N,) or (N, C).
        statistic: maps sums of the columns, with any leading axes, to values of those axes.
        groups: (N,) the group of each image, drawn whole: images of one group are not independent. A single group is
            no sample, so that its images are drawn.
    """
    columns = {name: np.asarray(values, dtype=float) for name, values in columns.items()}
    if groups is not None and len(np.unique(groups)) > 1:
        columns = {name: _group_sums(values, groups) for name, values in columns.items()}
    count = len(next(iter(columns.values())))
    value = statistic({name: values.sum(0) for name, values in columns.items()})
    draws = np.concatenate(
        [
            statistic({name: weights @ values for name, values in columns.items()})
            for weights in _resampled(count, np.random.default_rng(seed))
        ]
    )
    tail = (1 - CONFIDENCE) / 2
    counted = draws[~np.isnan(draws)]
    if not counted.size:
        return Estimate(float(value), float("nan"), float("nan"))
    low, high = np.quantile(counted, [tail, 1 - tail])
    # Sums in another order are rounded in another way: the value of equal images may miss their interval by a bit.
    return Estimate(float(value), float(min(low, value)), float(max(high, value)))


def _group_sums(values: Floats, groups: NDArray[np.int64]) -> Floats:
    """Sums (G, ...) of values (N, ...) over each group."""
    names, places = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), *values.shape[1:]))
    np.add.at(sums, places, values)
    return sums


def _resampled(count: int, generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """How often each resample holds each image, some resamples at a time: all of a million images are 16 GB."""
    shares, some = np.full(count, 1 / count), max(1, MOST_COUNTS // count)
    for first in range(0, RESAMPLES, some):
        yield generator.multinomial(count, shares, size=min(some, RESAMPLES - first))


def wilson(successes: int, count: int) -> Estimate:
    """Share of successes with Wilson's score interval (1927), which keeps its width at 0 % and 100 %."""
    if not count:
        return Estimate(*[float("nan")] * 3)
    share, z = successes / count, _NORMAL_QUANTILE
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Estimate(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def paired_share(gained: int, lost: int, count: int) -> Estimate:
    """Difference of two shares of the same images with Tango's score interval (Statistics in Medicine 17, 1998).

    It keeps its width where few images differ, and a percentile bootstrap does not.

    Args:
        gained: images that only the second has right; `lost` those that only the first has.
        count: all images, at least one.
    """
    value = (gained - lost) / count

    def score(difference: float) -> float:
        """How far the counts are from a true difference, in standard errors under it."""
        linear = (2 * count - gained + lost) * difference - gained - lost
        constant = -lost * difference * (1 - difference)
        lost_share = (math.sqrt(max(0.0, linear**2 - 8 * count * constant)) - linear) / (4 * count)
        variance = count * (2 * lost_share + difference * (1 - difference))
        distance = gained - lost - count * difference
        return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)

    def limit(end: float) -> float:
        inside, outside = value, end
        for _ in range(BISECTIONS):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if abs(score(middle)) <= _NORMAL_QUANTILE else (inside, middle)
        return inside

    return Estimate(value, limit(-1.0), limit(1.0))
