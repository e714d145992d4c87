"""What the attacks cost: passes and time per image, and memory."""

from collections.abc import Sequence

from robustprobe.report.page.origin import FactTable, slowest_of_groups
from robustprobe.report.tables.matrix import MISSING, attack_order
from robustprobe.results.labels import attack_labels
from robustprobe.results.records import AttackKey, Record


def cost_table(records: Sequence[Record]) -> FactTable:
    """A row per attack: passes and time per image, and the peak memory, over all encoders and datasets."""
    by_attack: dict[AttackKey, list[Record]] = {}
    for record in sorted(slowest_of_groups(records), key=lambda r: attack_order(r.attack_key)):
        by_attack.setdefault(record.attack_key, []).append(record)
    rows = [_row(label, some) for label, some in zip(attack_labels(list(by_attack)), by_attack.values(), strict=True)]
    headings = ["attack", "made for", "forward passes", "backward passes", "ms per image, mean", "ms per image, most"]
    return FactTable("Cost", [*headings, "peak MiB"], rows)


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
