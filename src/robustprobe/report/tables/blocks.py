"""Results for a terminal: a block per task and eps, and numbered notes, one for each cause."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from robustprobe.report.tables.matrix import (
    MISSING,
    Column,
    TaskTable,
    images_text,
    interval_text,
    metric_text,
    threat_text,
    transfer_matrices,
)
from robustprobe.report.tables.sheet import Row, Sheet
from robustprobe.report.tables.strongest import headline_column
from robustprobe.results.labels import eps_text, heads_text, record_label

if TYPE_CHECKING:
    from rich.console import Console

    from robustprobe.results.records import CheckFact, Record

MARK = "†"
CHECKS_PAGE = "docs/concepts/sanity-checks.md"
BRACKETS = "Brackets: 95 % interval over images."


class Cause(NamedTuple):
    """A sanity check that failed, and the cells where it did."""

    name: str
    cells: list[tuple["Record", "CheckFact"]]

    @property
    def line(self) -> str:
        """`still rising, 3 numbers: more steps would find more`."""
        count = len({record.fingerprint for record, _ in self.cells})
        meanings = {_consequence(check.meaning) for _, check in self.cells}
        said = meanings.pop() if len(meanings) == 1 else self.most[1].meaning
        return f"{self.name}, {count} number{'' if count == 1 else 's'}: {said}"

    @property
    def most(self) -> tuple["Record", "CheckFact"]:
        """The cell where the largest value was measured."""
        return max(self.cells, key=lambda cell: -math.inf if math.isnan(cell[1].value) else cell[1].value)

    @property
    def sentences(self) -> list[str]:
        """What was measured where, a sentence per finding."""
        said: dict[str, list[str]] = {}
        for record, check in self.cells:
            where = f"{record.encoder}, {record.images_of}, {record.task}"
            said.setdefault(f"{record_label(record)}: {check.meaning}", []).append(where)
        return [f"{text} ({'; '.join(dict.fromkeys(cells))})" for text, cells in said.items()]


def _consequence(meaning: str) -> str:
    """The part of a check's sentence that does not hold the numbers of one cell, where there is such a part."""
    return meaning.partition(": ")[2] or meaning


class Notes:
    """Failed sanity checks merged by cause, numbered in the order in which tables first refer to them."""

    def __init__(self) -> None:
        self.causes: dict[str, Cause] = {}
        self._seen: set[tuple[str, str]] = set()

    def value(self, record: "Record | None") -> str:
        """`0.430 [0.380, 0.480] †1`; a dash where nothing was measured."""
        return MISSING if record is None else f"{interval_text(record.headline)}{self.mark(record)}"

    def mark(self, record: "Record") -> str:
        """` †1,2`, or nothing where every check passed."""
        for check in record.doubts:
            if (record.fingerprint, check.name) not in self._seen:
                self._seen.add((record.fingerprint, check.name))
                self.causes.setdefault(check.name, Cause(check.name, [])).cells.append((record, check))
        failed = {check.name for check in record.doubts}
        numbers = [str(k) for k, name in enumerate(self.causes, 1) if name in failed]
        return f" {MARK}{','.join(numbers)}" if numbers else ""

    def lines(self, verbose: bool = False) -> list[str]:
        """A line for each cause; with `verbose` every finding below it."""
        found = []
        for number, cause in enumerate(self.causes.values(), 1):
            found.append(f"{MARK}{number} {cause.line}")
            found += [f"   {sentence}" for sentence in cause.sentences] if verbose else []
        return found


def task_sheets(table: TaskTable, notes: Notes) -> list[Sheet]:
    """A table per norm and eps of one task, each with the clean scores."""
    places = {k: column.key for k, column in enumerate(table.columns)}
    clean = [k for k, key in places.items() if key.is_clean]
    levels = dict.fromkeys((key.attack.norm, key.attack.eps) for key in places.values() if not key.is_clean)
    order = sorted(levels, key=lambda level: (level[0] != "linf", *level))
    columns = [
        [*clean, *(k for k, key in places.items() if not key.is_clean and (key.attack.norm, key.attack.eps) == level)]
        for level in order
    ]
    return [_task_sheet(table, positions, notes) for positions in columns or [clean]]


def _task_sheet(table: TaskTable, positions: Sequence[int], notes: Notes) -> Sheet:
    lines = [line for line in table.lines if any(line.cells[k] for k in positions)]
    datasets = dict.fromkeys(line.dataset for line in lines)
    shared = next(iter(datasets)) if len(datasets) == 1 else ""
    at_level = [line._replace(cells=[line.cells[k] for k in positions]) for line in lines]
    headline = headline_column([table.columns[k] for k in positions], at_level, notes.value)
    rows = [
        Row([line.encoder] if shared else [line.dataset, line.encoder], [notes.value(r) for r in line.cells])
        for line in at_level
    ]
    if headline:
        rows = [Row(row.names, [*row.cells, end]) for row, end in zip(rows, headline.cells, strict=True)]
    shown = [record for line in lines for k in positions if (record := line.cells[k])]
    title = _title(table.task, shared, shown)
    labels = _labels(table.columns, positions) + ([headline.label] if headline else [])
    return Sheet(title, ["encoder"] if shared else ["dataset", "encoder"], labels, rows)


def _title(task: str, dataset: str, records: Sequence["Record"]) -> str:
    first = records[0]
    metric = metric_text(first.metric, first.unit, first.higher_is_better).replace(", a share from 0 to 1", "")
    where = f"{task.capitalize()} on {dataset}" if dataset else task.capitalize()
    said = [metric, images_text(records), *threat_text(records), heads_text(records)]
    return f"{where}: " + "; ".join(filter(None, said))


def _labels(columns: Sequence[Column], positions: Sequence[int]) -> list[str]:
    """Labels without the eps, which the title says, where they stay unique."""
    full = [columns[k].label for k in positions]
    keys = [columns[k].key for k in positions]
    short = [label.replace(f" {eps_text(key.attack)}", "", 1) for label, key in zip(full, keys, strict=True)]
    return short if len(set(short)) == len(short) else full


def transfer_sheets(records: Iterable["Record"], notes: Notes) -> list[Sheet]:
    """A table of transfer between tasks for every encoder and dataset that several tasks judged."""
    return [
        Sheet(
            matrix.title,
            ["made for", "attack"],
            [f"judged by {judge}" for judge in matrix.judges],
            [Row([row.target_task, row.label], [notes.value(r) for r in row.cells]) for row in matrix.rows],
        )
        for matrix in transfer_matrices(records)
    ]


def print_notes(notes: Notes, console: "Console", verbose: bool, pointer: str) -> None:
    """Print a line for each cause, cut to the width unless `verbose`, then where the whole text is."""
    from rich.text import Text

    for line in notes.lines(verbose):
        console.print(Text(line), no_wrap=not verbose, overflow="fold" if verbose else "ellipsis")
    if notes.causes and not verbose and pointer:
        console.print(Text(f"{MARK} {pointer.rstrip('.')}; what each check means: {CHECKS_PAGE}"))
