"""What a comparison found, in words: which of two sides is more robust, and whether chance may explain it."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from robustprobe.metrics.paired import Paired
from robustprobe.metrics.significance import LEVEL, POINTS, holm, images_needed, p_value
from robustprobe.report.tables.matrix import change_text
from robustprobe.results.labels import record_label

if TYPE_CHECKING:
    from robustprobe.results.records import Record

Finding = Literal["better", "worse", "no difference shown", "equal", "not paired"]
"""The second against the first: `better` and `worse` where the paired 95 % interval excludes 0."""


def finding(paired: Paired, higher_is_better: bool) -> Finding:
    """What a paired difference, second minus first, says of the second."""
    estimate = paired.estimate
    if estimate is None:
        return "not paired"
    if estimate.ci_low == estimate.ci_high == 0:
        return "equal"
    if estimate.ci_low <= 0 <= estimate.ci_high:
        return "no difference shown"
    return "better" if (estimate.value > 0) == higher_is_better else "worse"


class Judgement(NamedTuple):
    """A cell that both sides have: the record of the second, the paired difference and what it says."""

    record: "Record"
    paired: Paired
    finding: Finding
    first_value: float

    @property
    def telling(self) -> tuple[float, str]:
        """The difference whose cost in images is told, in the unit of the metric and in words."""
        if self.record.unit == "share":
            return POINTS, f"{100 * POINTS:.0f} points of {self.record.metric}"
        return POINTS * abs(self.first_value), f"{100 * POINTS:.0f} % of the first's {self.record.metric}"

    @property
    def images_needed(self) -> int | None:
        """Images that tell such a difference in 80 % of experiments; None where that is not known."""
        estimate = self.paired.estimate
        return images_needed(estimate, self.record.n, self.telling[0]) if estimate else None


def corrected(judgements: Sequence[Judgement]) -> list[float | None]:
    """Holm's p-value of each difference among all paired ones; None for those that are not paired."""
    known = [p_value(j.paired.estimate) for j in judgements if j.paired.estimate]
    found = iter(holm(known))
    return [next(found) if j.paired.estimate else None for j in judgements]


def verdict(judgements: Sequence[Judgement], first: str, second: str) -> list[str]:
    """A sentence on all cells, and one for each task on its strongest attack: the one that left the second the least.

    Args:
        judgements: the cells that both sides have.
        first: how the sentences call the first side, and `second` the second.
    """
    counts = {kind: sum(j.finding == kind for j in judgements) for kind in ("better", "worse", "equal")}
    paired = [j for j in judgements if j.paired.estimate is not None]
    alike = len(paired) - sum(counts.values())
    summary = (
        f"Of {len(judgements)} cells, {second} is better than {first} in {counts['better']} and worse in "
        f"{counts['worse']} (paired 95 % interval over images excludes 0); no difference is shown in {alike}"
    )
    summary += f", equal on every image in {counts['equal']}" if counts["equal"] else ""
    summary += _after_correction(judgements)
    unpaired = len(judgements) - len(paired)
    summary += f"; {unpaired} cannot be paired, as the notes say." if unpaired else "."
    tasks = dict.fromkeys((j.record.task, j.record.images_of) for j in judgements)
    strongest = [_strongest([j for j in judgements if (j.record.task, j.record.images_of) == key]) for key in tasks]
    return [summary, *(_sentence(j, first, second) for j in strongest if j)]


def _after_correction(judgements: Sequence[Judgement]) -> str:
    """What is left of the differences once their number is taken into account; nothing to say of a single one."""
    p_values = corrected(judgements)
    tested = sum(p is not None for p in p_values)
    if tested < 2:
        return ""
    kept = [j.finding for j, p in zip(judgements, p_values, strict=True) if p is not None and p < LEVEL]
    counts = {kind: kept.count(kind) for kind in ("better", "worse")}
    return (
        f"; after Holm's correction for {tested} comparisons, {counts['better']} better and {counts['worse']} worse"
        " remain"
    )


def _strongest(judgements: Sequence[Judgement]) -> Judgement | None:
    attacked = [
        j
        for j in judgements
        if not (j.record.is_clean or j.record.is_control or j.record.is_transfer)
        and math.isfinite(j.record.headline.value)
    ]
    # Corruptions are no attack, and the score beside a patch is one of fewer pixels.
    attacked = [j for j in attacked if j.record.is_in_ball] or attacked
    sign = 1 if judgements[0].record.higher_is_better else -1
    return min(attacked, key=lambda j: sign * j.record.headline.value, default=None)


def _sentence(judgement: Judgement, first: str, second: str) -> str:
    record, estimate = judgement.record, judgement.paired.estimate
    where = f"{record.task.capitalize()} on {record.images_of} under {record_label(record)}"
    if estimate is None:
        return f"{where}: not paired."
    if judgement.finding == "equal":
        return f"{where}: {first} and {second} are equal on every image."
    unit = "" if record.unit == "share" else f" {record.unit}"
    size = (
        f"{record.metric} {change_text(estimate.value)}{unit} "
        f"[{change_text(estimate.ci_low)}, {change_text(estimate.ci_high)}], n = {record.n}"
    )
    if judgement.finding == "no difference shown":
        return f"{where}: no difference between {first} and {second} is shown ({size}).{_power(judgement)}"
    word = "more" if judgement.finding == "better" else "less"
    return f"{where}: {second} is {word} robust than {first} ({size}).{_power(judgement)}"


def _power(judgement: Judgement) -> str:
    needed = judgement.images_needed
    if needed is None:
        return ""
    return f" To tell {judgement.telling[1]} apart (power 80 %) takes about {needed:,} images."
