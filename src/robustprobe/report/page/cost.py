"""What the attacks cost: passes and time an image, and memory."""

from collections.abc import Sequence

from robustprobe.report.page.origin import FactTable
from robustprobe.report.tables.matrix import MISSING, attack_order
from robustprobe.results.labels import attack_labels
from robustprobe.results.records import Record


def cost_table(records: Sequence[Record]) -> FactTable:
    """A row an attack: passes and time an image, and the most memory held, over all encoders and datasets.

    Cells of a group share the making of their images, and each counts from its beginning: the longest is the group's.
    """
    groups: dict[str, Record] = {}
    for record in records:
        known = groups.get(record.group)
        if known is None or record.provenance.seconds > known.provenance.seconds:
            groups[record.group] = record
    by_attack: dict[object, list[Record]] = {}
    for record in sorted(groups.values(), key=lambda r: attack_order(r.attack, r.target_task)):
        by_attack.setdefault((record.attack, record.target_task), []).append(record)
    labels = attack_labels([(some[0].attack, some[0].target_task) for some in by_attack.values()])
    rows = [_row(label, some) for label, some in zip(labels, by_attack.values(), strict=True)]
    headings = ["attack", "made for", "forward passes", "backward passes", "ms an image, mean", "ms an image, most"]
    headings.append("MiB, most")
    return FactTable("Cost", headings, rows)


def _row(label: str, records: Sequence[Record]) -> tuple[str, ...]:
    passes = [sum(r.cost.model_dump()[key] for r in records) / len(records) for key in ("forwards", "backwards")]
    times = [1000 * r.provenance.seconds / r.n for r in records if r.n]
    peaks = [r.provenance.peak_memory for r in records if r.provenance.peak_memory is not None]
    mean = sum(times) / len(times) if times else 0.0
    return (
        label,
        records[0].target_task or "no task",
        *(f"{p:.1f}" for p in passes),
        f"{mean:.3g}",
        f"{max(times, default=0.0):.3g}",
        f"{max(peaks) / 2**20:,.0f}" if peaks else MISSING,
    )
