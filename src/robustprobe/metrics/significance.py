"""Many differences at once: p-values, Holm's correction for their number, and how many images a difference takes."""

import math
from collections.abc import Sequence

from robustprobe.metrics.intervals import Estimate

LEVEL = 0.05
POWER = 0.8
POINTS = 0.02
FEWEST = 8
"""Of fewer images a variance is known to a factor of more than ten: 95 % of what chi-squared allows with N - 1."""
_QUANTILE_95 = 1.959963984540054
_QUANTILE_POWER = 0.8416212335729143


def standard_error(estimate: Estimate) -> float:
    """The standard error that a 95 % interval implies for a normal estimate."""
    return (estimate.ci_high - estimate.ci_low) / (2 * _QUANTILE_95)


def p_value(estimate: Estimate) -> float:
    """Two-sided p-value of a difference against 0, by the normal approximation; 1 where there is no interval."""
    error = standard_error(estimate)
    if not math.isfinite(error) or estimate.value == 0:
        return 1.0
    return math.erfc(abs(estimate.value) / error / math.sqrt(2)) if error else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979): below 0.05 all together, not each, err in 5 % of tables.

    Args:
        p_values: of all differences of a table, in any order.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, largest = [1.0] * len(p_values), 0.0
    for rank, position in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[position]))
        corrected[position] = largest
    return corrected


def images_needed(estimate: Estimate, images: int, difference: float) -> int | None:
    """How many images tell a true difference from 0 at the 5 % level in 80 % of experiments.

    Args:
        estimate: a paired difference measured on `images` images; its standard error falls with their square root.
        images: N.
        difference: the true difference, in the unit of the metric.

    Returns:
        None where the interval has no width, so that nothing is known about other images, and below `FEWEST` images.
    """
    error = standard_error(estimate)
    if images < FEWEST or not math.isfinite(error) or error <= 0 or not difference > 0:
        return None
    return math.ceil(images * ((_QUANTILE_95 + _QUANTILE_POWER) * error / difference) ** 2)
