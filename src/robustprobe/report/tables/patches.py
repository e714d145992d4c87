"""Scores under patches, beside those of the same pixels without a patch and with one of noise in its place."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

from robustprobe.metrics.statistics import NOISE_PATCH, WITHOUT_PATCH
from robustprobe.report.tables.matrix import (
    MISSING,
    attack_order,
    data_key,
    images_text,
    interval_text,
    line_key,
    line_names,
    metric_text,
)
from robustprobe.report.tables.shares import is_guess, kept, share_text
from robustprobe.report.tables.sheet import Row, Sheet
from robustprobe.results.labels import attack_labels
from robustprobe.results.records import Interval, Record

COLUMNS = ("without patch", "noise patch", "patch", "left of clean")
NOTE = (
    "Patches: pixels under the patch count nowhere, in all three scores. Noise patch: random pixels in the same "
    "place, what covering it alone does. Left of clean: what of the score without patch above chance is left."
)


class PatchTable(NamedTuple):
    """One task on one dataset: for each encoder and patch the names of both, and its record."""

    task: str
    dataset: str
    caption: str
    rows: list[tuple[str, str, Record]]

    @property
    def title(self) -> str:
        """What it shows, in a line."""
        return f"Patches, {self.task} on {self.dataset}: {self.caption}"


def patch_tables(records: Iterable[Record]) -> list[PatchTable]:
    """A table for each task and dataset with a patch; of two records of one cell the later one counts."""
    found = [r for r in records if r.is_patch and r.is_task_specific]
    groups: dict[tuple[str, Hashable], list[Record]] = {}
    for record in sorted(found, key=lambda r: (r.provenance.started, r.fingerprint)):
        # Encoders are served images of the size they prefer.
        key = (record.dataset, record.content_digest, record.split, record.image_ids_digest)
        groups.setdefault((record.task, key), []).append(record)
    return [_table(groups[key]) for key in sorted(groups, key=lambda key: (key[0], str(key[1])))]


def _table(records: Sequence[Record]) -> PatchTable:
    first = records[0]
    lines = {line_key(r): r for r in records}
    encoders = dict(zip(lines, (name for _, name in line_names(list(lines.values()))), strict=True))
    keys = sorted({r.attack_key for r in records}, key=lambda key: attack_order(key, first.task))
    labels = dict(zip(keys, attack_labels(keys, first.task), strict=True))
    cells = {(line_key(r), r.attack_key): r for r in records}
    rows = sorted(((encoders[line], labels[key], r) for (line, key), r in cells.items()), key=lambda row: row[:2])
    parts = [metric_text(first.metric, first.unit, first.higher_is_better), images_text(records)]
    dataset = next(iter({data_key(r): r for r in records}.values())).images_of
    return PatchTable(first.task, dataset, "; ".join(parts), rows)


def patch_cells(record: Record, text: Callable[[Record | None], str]) -> list[str]:
    """The cells of `COLUMNS` of a record."""
    clean, noise = (record.metrics.get(f"{record.metric} {name}") for name in (WITHOUT_PATCH, NOISE_PATCH))
    return [*(interval_text(part) if part else MISSING for part in (clean, noise)), text(record), _left(record, clean)]


def _left(record: Record, clean: Interval | None) -> str:
    chance, higher = record.chance, record.higher_is_better
    if clean is None or chance is None or is_guess(clean, chance, higher):
        return MISSING
    share = kept(clean, record.headline, chance, higher)
    return share_text(share) if share else MISSING


def patch_sheets(records: Iterable[Record], text: Callable[[Record | None], str]) -> list[Sheet]:
    """Every table of patches as text; the last one says below what its columns are."""
    sheets = [
        Sheet(
            table.title,
            ["encoder", "patch"],
            list(COLUMNS),
            [Row([encoder, label], patch_cells(record, text)) for encoder, label, record in table.rows],
            across="image",
        )
        for table in patch_tables(records)
    ]
    return [*sheets[:-1], *(sheet._replace(notes=[NOTE]) for sheet in sheets[-1:])]
