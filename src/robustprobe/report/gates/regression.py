"""Whether numbers are worse than those of a baseline, image by image."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from robustprobe.core.errors import UserError
from robustprobe.metrics.paired import Side, paired_difference
from robustprobe.report.gates.outcome import GateOutcome
from robustprobe.report.tables.matching import RecordPair, match, nothing_in_common
from robustprobe.report.tables.matrix import change_text
from robustprobe.report.tables.verdict import finding
from robustprobe.results.labels import record_label

if TYPE_CHECKING:
    from robustprobe.results.records import Record
    from robustprobe.results.store import Store


def judge_regressions(
    baseline: "Store", store: "Store", records: Sequence["Record"], before: Sequence["Record"] | None = None
) -> list[GateOutcome]:
    """An outcome for each number, against that of a baseline: failed where it is worse and the paired 95 % interval of
    the difference over images excludes 0, or where no such interval can be had.

    Encoders are matched by name; one encoder on each side is matched under any names. Controls and attacks made for
    other tasks are left out.

    Args:
        store: where the rows of the records are.
        before: the records of the baseline that count; by default all.

    Raises:
        UserError: no number is in both.
    """
    told = baseline.records() if before is None else before
    sides = [[r for r in side if not (r.is_transfer or r.is_control)] for side in (told, records)]
    names = [{r.encoder for r in side} for side in sides]
    across = names[0].isdisjoint(names[1]) and len(names[0]) == len(names[1]) == 1
    pairs = match(sides[0], sides[1], across)
    if not any(pair.first and pair.second for pair in pairs):
        raise UserError(nothing_in_common(baseline, store, sides))
    return [_judged(pair, baseline, store) for pair in pairs if pair.second]


def _judged(pair: RecordPair, baseline: "Store", store: "Store") -> GateOutcome:
    record = pair.any if pair.second is None else pair.second
    name = f"no regression: {record.task} on {record.images_of} under {record_label(record)}"
    if pair.first is None or pair.second is None:
        return GateOutcome(record.encoder, name, "skipped", f"{name}: the baseline has no such number")
    paired = paired_difference(Side(baseline, pair.first), Side(store, pair.second))
    estimate, found = paired.estimate, finding(paired, record.higher_is_better)
    if estimate is None:
        return GateOutcome(record.encoder, name, "failed", f"{name}: cannot be told. {paired.note}")
    unit = "" if record.unit == "share" else f" {record.unit}"
    change = (
        f"{record.metric} {change_text(estimate.value)}{unit} [{change_text(estimate.ci_low)}, "
        f"{change_text(estimate.ci_high)}] against the baseline, n = {record.n}"
    )
    said = {
        "better": "better; the paired 95 % interval excludes 0",
        "equal": "equal on every image",
        "no difference shown": "no difference shown; the paired 95 % interval includes 0",
        "worse": "worse; the paired 95 % interval excludes 0",
    }
    note = f". {paired.note}" if paired.note and found != "equal" else ""
    return GateOutcome(
        record.encoder, name, "failed" if found == "worse" else "passed", f"{name}: {change}: {said[found]}{note}"
    )
