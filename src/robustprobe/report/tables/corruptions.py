"""Scores under common corruptions: the mean over corruptions, what is left of the clean score, and each corruption."""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

from robustprobe.core.corruption_names import NAMES, family_of
from robustprobe.metrics.intervals import Estimate
from robustprobe.report.tables.matrix import (
    MISSING,
    TaskTable,
    data_key,
    images_text,
    interval_text,
    line_key,
    line_names,
    metric_text,
    number_text,
)
from robustprobe.report.tables.shares import is_guess, kept, share_text
from robustprobe.report.tables.sheet import Row, Sheet
from robustprobe.results.records import Interval, Record

DRIFT = "embedding drift"
MEAN = "mean of corruptions"
LEFT = "left of clean"
NOTE = (
    "Mean of corruptions: without the clean score, and with the mean of the intervals' ends, since all are of the same "
    "images. Left of clean: what of the clean score above chance is left. Embedding drift: 1 - cosine of "
    "clean and corrupted class feature, mean; it needs no label."
)


class CorruptionColumn(NamedTuple):
    """One encoder at one severity: its clean record, and those under corruptions by label.

    `mean` is over all corruptions of the table, and None where one of them is missing; `left` is the share of the clean
    score above chance that the mean is, None where the interval of the clean score reaches chance; `drift` is the mean
    drift of the embedding, None where it is not known.
    """

    encoder: str
    severity: float
    clean: Record | None
    cells: dict[str, Record]
    mean: Interval | None
    left: Estimate | None
    drift: float | None


class CorruptionTable(NamedTuple):
    """One task on one dataset: a row per corruption, a column per encoder and severity."""

    task: str
    dataset: str
    caption: str
    names: list[str]
    columns: list[CorruptionColumn]

    @property
    def title(self) -> str:
        """What it shows, in a line."""
        return f"Corruptions, {self.task} on {self.dataset}: {self.caption}"

    def headings(self) -> list[str]:
        """Encoder and severity of each column, without the severity where all have the same one."""
        if len({column.severity for column in self.columns}) == 1:
            return [column.encoder for column in self.columns]
        one = len({column.encoder for column in self.columns}) == 1
        return [f"severity {c.severity:g}" if one else f"{c.encoder}, severity {c.severity:g}" for c in self.columns]


def corruption_tables(records: Iterable[Record]) -> list[CorruptionTable]:
    """A table for each task and dataset with a corruption; of two records of one cell the later one counts."""
    known = sorted((r for r in records if not r.is_transfer), key=lambda r: (r.provenance.started, r.fingerprint))
    groups: dict[tuple[str, Hashable], list[Record]] = {}
    for record in known:
        # Encoders are served images of the size they prefer.
        key = (record.dataset, record.content_digest, record.split, record.image_ids_digest)
        groups.setdefault((record.task, key), []).append(record)
    corrupted = {key: some for key, some in groups.items() if any(r.is_corruption for r in some)}
    return [_table(corrupted[key]) for key in sorted(corrupted, key=lambda key: (key[0], str(key[1])))]


def _table(records: Sequence[Record]) -> CorruptionTable:
    first = records[0]
    found = [r for r in records if r.is_corruption]
    labels = {_label(r): r for r in found}
    names = sorted(labels, key=lambda label: (NAMES.index(label) if label in NAMES else len(NAMES), label))
    lines = {line_key(r): r for r in found}
    encoders = dict(zip(lines, (name for _, name in line_names(list(lines.values()))), strict=True))
    severities = sorted({r.attack.eps for r in found})
    columns = [
        column
        for key, encoder in sorted(encoders.items(), key=lambda pair: pair[1])
        for severity in severities
        if (column := _column(encoder, severity, [r for r in records if line_key(r) == key], names)).cells
    ]
    parts = [metric_text(first.metric, first.unit, first.higher_is_better), images_text(records)]
    at = f"severity {', '.join(f'{s:g}' for s in severities)}"
    sizes = {data_key(r): r for r in records}
    dataset = next(iter(sizes.values())).images_of
    return CorruptionTable(first.task, dataset, "; ".join([*parts, at]), names, columns)


def _label(record: Record) -> str:
    """The corruption's own name: `fog`; the attack's label for one from elsewhere."""
    attack = record.attack
    return attack.objective if attack.objective in NAMES else attack.label


def _column(encoder: str, severity: float, records: Sequence[Record], names: Sequence[str]) -> CorruptionColumn:
    clean = next((r for r in reversed(records) if r.is_clean), None)
    cells = {_label(r): r for r in records if r.is_corruption and r.attack.eps == severity}
    whole = [cells[name] for name in names] if all(name in cells for name in names) else []
    mean = _mean([r.headline for r in whole])
    chance = _chance(clean) if clean else math.nan
    able = clean if clean and not is_guess(clean.headline, chance, clean.higher_is_better) else None
    left = kept(able.headline, mean, chance, able.higher_is_better) if able and mean else None
    drifts = [r.metrics[DRIFT].value for r in whole if DRIFT in r.metrics]
    drift = sum(drifts) / len(drifts) if whole and len(drifts) == len(whole) else None
    return CorruptionColumn(encoder, severity, clean, cells, mean, left, drift)


def _mean(intervals: Sequence[Interval]) -> Interval | None:
    """The mean of values and of ends: all are of the same images, so that they may err together."""
    if not intervals:
        return None
    ends = {name: sum(getattr(i, name) for i in intervals) / len(intervals) for name in Interval.model_fields}
    return Interval(**ends)


def _chance(record: Record) -> float:
    if record.chance is not None:
        return record.chance
    return 0.0 if record.higher_is_better else math.nan


def corruption_sheet(table: CorruptionTable, text: Callable[[Record | None], str]) -> Sheet:
    """A table as rows of text; `text` is how a number is shown."""
    rows = [Row(["", "clean"], [text(column.clean) for column in table.columns])]
    rows += [
        Row([family_of(name), name], [text(column.cells.get(name)) for column in table.columns]) for name in table.names
    ]
    if len(table.names) > 1:
        rows.append(Row(["", MEAN], [interval_text(c.mean) if c.mean else MISSING for c in table.columns]))
        rows.append(Row(["", LEFT], [share_text(c.left) if c.left else MISSING for c in table.columns]))
        rows.append(Row(["", DRIFT], [MISSING if c.drift is None else number_text(c.drift) for c in table.columns]))
    return Sheet(table.title, ["family", "corruption"], table.headings(), rows, across="encoder")


def corruption_sheets(records: Iterable[Record], text: Callable[[Record | None], str]) -> list[Sheet]:
    """Every table of corruptions as text; the last one says below how means are made, where there are any."""
    tables = corruption_tables(records)
    sheets = [corruption_sheet(table, text) for table in tables]
    notes = [NOTE] if any(len(table.names) > 1 for table in tables) else []
    return [*sheets[:-1], *(sheet._replace(notes=notes) for sheet in sheets[-1:])]


def attack_tables(tables: Iterable[TaskTable]) -> list[TaskTable]:
    """Tables without the columns of corruptions and patches, which have tables of their own; none of clean scores
    alone.
    """
    found = [
        (table, [k for k, c in enumerate(table.columns) if c.key.is_clean or c.key.is_in_ball]) for table in tables
    ]
    return [
        table._replace(
            columns=[table.columns[k] for k in places],
            lines=[line._replace(cells=[line.cells[k] for k in places]) for line in table.lines],
        )
        for table, places in found
        if len(places) == len(table.columns) or any(not table.columns[k].key.is_clean for k in places)
    ]


class CorruptionSummary(NamedTuple):
    """The share of the best clean score above chance that an encoder reaches under corruptions at one severity, mean
    over the tasks on which every encoder compared has one.
    """

    encoder: str
    severity: float
    reached: float
    tasks: int
    corruptions: int


def corruption_summaries(tables: Iterable[CorruptionTable]) -> list[CorruptionSummary]:
    """A summary of each encoder at the largest severity, the most robust first; none where no task has all of them."""
    known = list(tables)
    severity = max((column.severity for table in known for column in table.columns), default=0.0)
    found: dict[str, list[float]] = {}
    whole = [shares for table in known if (shares := _shares(table, severity))]
    for shares in whole:
        for encoder, share in shares.items():
            found.setdefault(encoder, []).append(share)
    count = max((len(table.names) for table in known), default=0)
    made = [
        CorruptionSummary(encoder, severity, sum(own) / len(own), len(own), count)
        for encoder, own in found.items()
        if len(own) == len(whole)
    ]
    return sorted(made, key=lambda summary: (-summary.reached, summary.encoder))


def _shares(table: CorruptionTable, severity: float) -> dict[str, float]:
    """What each encoder reaches of the best clean score above chance; nothing where that is not known for all."""
    own = [column for column in table.columns if column.severity == severity]
    clean = [column.clean for column in own if column.clean and column.left]
    if not clean:
        return {}
    best = max(clean, key=lambda r: r.headline.value * (1 if r.higher_is_better else -1))
    shares = {c.encoder: kept(best.headline, c.mean, _chance(best), best.higher_is_better) for c in own if c.mean}
    known = {encoder: share.value for encoder, share in shares.items() if share}
    return known if len(known) == len(own) else {}
