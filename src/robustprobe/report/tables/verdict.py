"""What a comparison found, in words: which of two sides is more robust, and whether chance may explain it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from robustprobe.metrics.paired import Paired
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
    unpaired = len(judgements) - len(paired)
    summary += f"; {unpaired} cannot be paired, as the notes say." if unpaired else "."
    tasks = dict.fromkeys((j.record.task, j.record.images_of) for j in judgements)
    strongest = [_strongest([j for j in judgements if (j.record.task, j.record.images_of) == key]) for key in tasks]
    return [summary, *(_sentence(j, first, second) for j in strongest if j)]


def _strongest(judgements: Sequence[Judgement]) -> Judgement | None:
    attacked = [j for j in judgements if not (j.record.is_clean or j.record.is_control or j.record.is_transfer)]
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
        return f"{where}: no difference between {first} and {second} is shown ({size})."
    word = "more" if judgement.finding == "better" else "less"
    return f"{where}: {second} is {word} robust than {first} ({size})."
