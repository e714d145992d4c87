"""The share of the clean score above chance that an attack left, its 95 % interval, and ranks that intervals allow."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from robustprobe.metrics.intervals import Estimate
from robustprobe.metrics.kept import above_chance, share_kept
from robustprobe.report.tables.matrix import percent_text
from robustprobe.results.records import Interval

WIDEST = 1.0
"""Width of an interval of a share above which it leaves the share open."""


class Ranks(NamedTuple):
    """The best and the worst rank that an encoder may have."""

    first: int
    last: int

    @property
    def text(self) -> str:
        """`2` or `2–4`."""
        return str(self.first) if self.first == self.last else f"{self.first}\N{EN DASH}{self.last}"


def is_guess(clean: Interval, chance: float, higher_is_better: bool) -> bool:
    """Whether the interval of a clean score or error reaches the level of chance."""
    return clean.ci_low <= chance if higher_is_better else clean.ci_high >= chance


def kept(clean: Interval, attacked: Interval, chance: float, higher_is_better: bool) -> Estimate | None:
    """(attacked - chance) / (clean - chance), at least 0, with a 95 % interval.

    The distances of both ends are added in quadrature (MOVER, Zou and Donner 2008), as if clean and attacked had been
    measured on different images: wider than a paired interval, never narrower where the two rise together. `chance`
    counts as exact: it follows from the labels of the same images.

    Returns:
        None where a value is not finite or the clean score is not better than chance.
    """
    if not all(math.isfinite(x) for x in (*attacked.model_dump().values(), *clean.model_dump().values(), chance)):
        return None
    part, whole = (_gain(interval, chance, higher_is_better) for interval in (attacked, clean))
    share = float(share_kept(clean.value, attacked.value, chance, higher_is_better))
    if math.isnan(share):
        return None
    low = math.hypot((part.value - part.ci_low) / whole.value, share - part.value / whole.ci_high)
    smallest = part.value / whole.ci_low if whole.ci_low > 0 else math.inf
    high = math.hypot((part.ci_high - part.value) / whole.value, smallest - share)
    return Estimate(share, max(0.0, share - low), share + high)


def _gain(interval: Interval, chance: float, higher_is_better: bool) -> Estimate:
    """An interval of a score or an error as one of what is better than chance."""
    value, low, high = (float(above_chance(x, chance, higher_is_better)) for x in interval.model_dump().values())
    return Estimate(value, min(low, high), max(low, high))


def mean_kept(parts: Sequence[Estimate]) -> Estimate:
    """Mean of shares whose errors are taken as independent."""
    count = len(parts)
    value = sum(p.value for p in parts) / count
    low = math.sqrt(sum((p.value - p.ci_low) ** 2 for p in parts)) / count
    high = math.sqrt(sum((p.ci_high - p.value) ** 2 for p in parts)) / count
    return Estimate(value, max(0.0, value - low), value + high)


def ranks(scores: Sequence[Estimate]) -> list[Ranks]:
    """The ranks each score may have: another score is above or below it only where their intervals do not overlap."""
    return [
        Ranks(
            1 + sum(other.ci_low > own.ci_high for other in scores),
            len(scores) - sum(other.ci_high < own.ci_low for other in scores),
        )
        for own in scores
    ]


def is_open(share: Estimate) -> bool:
    """Whether an interval is wider than all that there is to keep, so that it says little more than its lower end."""
    return share.ci_high - share.ci_low > WIDEST


def share_value(share: Estimate) -> str:
    """`12 %`; `7 % or more` where the interval leaves it open."""
    return f"{percent_text(share.ci_low)} or more" if is_open(share) else percent_text(share.value)


def share_ends(share: Estimate) -> str:
    """`[10, 14]`; nothing where the interval leaves it open."""
    return "" if is_open(share) else f"[{100 * share.ci_low:.0f}, {100 * share.ci_high:.0f}]"


def share_text(share: Estimate) -> str:
    """`12 % [10, 14]`, or `7 % or more`."""
    return f"{share_value(share)} {share_ends(share)}".rstrip()
