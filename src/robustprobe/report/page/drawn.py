"""Tables as the page draws them: numbers with a bar for the interval, rows grouped by dataset."""

import math
from itertools import groupby
from typing import NamedTuple

from robustprobe.report.page.headline import with_unit
from robustprobe.report.tables.matrix import Line, TaskTable, ends_text, failed_text
from robustprobe.results.records import Record

FULL = 100.0
THINNEST = 1.0


class Bar(NamedTuple):
    """An interval on the scale of its table, in percent of its width."""

    low: float
    width: float
    value: float


class DrawnCell(NamedTuple):
    """One number as the page prints it; no bar where it is not finite. `kind` is clean, control or attack.

    `failed` says what its failed sanity checks mean.
    """

    value: str
    ends: str
    kind: str
    bar: Bar | None
    failed: str


class DrawnLine(NamedTuple):
    """One encoder's cells."""

    encoder: str
    cells: list[DrawnCell | None]


class DrawnTable(NamedTuple):
    """A table of one task; `scale` is where its bars end."""

    task: str
    caption: str
    columns: list[str]
    datasets: list[tuple[str, list[DrawnLine]]]
    scale: str


def drawn(table: TaskTable) -> DrawnTable:
    """A table with bars: from 0 to 1 for shares, to the largest end of an interval for other units."""
    records = [r for line in table.lines for r in line.cells if r]
    ends = [r.headline.ci_high for r in records if math.isfinite(r.headline.ci_high)]
    is_share = records[0].unit == "share"
    top = 1.0 if is_share else max(ends, default=1.0)
    datasets = [
        (name, [_line(line, top) for line in lines]) for name, lines in groupby(table.lines, lambda x: x.dataset)
    ]
    scale = "1" if is_share else f"{top:.2f} {records[0].unit}"
    return DrawnTable(table.task, table.caption, [c.label for c in table.columns], datasets, scale)


def _line(line: Line, top: float) -> DrawnLine:
    return DrawnLine(line.encoder, [_cell(record, top) if record else None for record in line.cells])


def _cell(record: Record, top: float) -> DrawnCell:
    kind = "clean" if record.is_clean else "control" if record.is_control else "attack"
    headline = record.headline
    failed = failed_text(record)
    if not all(math.isfinite(x) for x in (*headline.model_dump().values(), top)) or top <= 0:
        return DrawnCell(with_unit(headline, record.unit), "", kind, None, failed)
    low, value, high = (FULL * min(max(x / top, 0), 1) for x in (headline.ci_low, headline.value, headline.ci_high))
    bar = Bar(min(low, FULL - THINNEST), max(high - low, THINNEST), value)
    return DrawnCell(with_unit(headline, record.unit), ends_text(headline), kind, bar, failed)
