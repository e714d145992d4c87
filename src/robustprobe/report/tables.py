"""The numbers of a store as tables: for people (rich, Markdown, LaTeX) and for programs (CSV, JSON)."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from robustprobe.errors import unknown_name
from robustprobe.report._matrix import (
    MISSING,
    TaskTable,
    TransferMatrix,
    doubts,
    in_order,
    interval_text,
    size_text,
    task_tables,
    transfer_matrices,
    trusted,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from robustprobe.store import Record

FORMATS = ("rich", "md", "csv", "json", "latex")
KEYS = (
    *(
        "encoder",
        "dataset",
        "task",
        "attack",
        "eps",
        "metric",
        "value",
        "ci_low",
        "ci_high",
        "n",
        "higher_is_better",
        "unit",
    ),
    *("made_for", "value_8bit", "norm", "steps", "iterate", "seed", "split", "image_size", "precision"),
    *("objective", "restarts", "failed_checks", "forwards", "backwards"),
    *("largest_perturbation", "suite", "started", "fingerprint"),
)
NO_RECORDS = "No finished cells yet."
MARK = "†"
"""Beside a number that a check casts doubt on; the sentence below the tables says why."""

_LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "×": r"$\times$",
    "†": r"$\dagger$",
    "—": "---",
    "\n": " ",
}


def table_rows(records: Iterable["Record"], transfer: bool = False) -> list[dict[str, Any]]:
    """One row a cell, tidy: `value`, `ci_low`, `ci_high` are the headline metric's, in `unit`; eps is in [0, 1].

    Args:
        records: any, in any order.
        transfer: also the cells whose attack was made for another task than the one that judged.

    Returns:
        Rows with the keys `KEYS`, by task, dataset, encoder and attack. Values that are no number stay NaN.
    """
    return [_row(record) for record in in_order(records, transfer)]


def _row(record: "Record") -> dict[str, Any]:
    attack, headline = record.attack, record.headline
    rounded = record.metrics_8bit.get(record.metric)
    values: dict[str, Any] = {
        **{key: getattr(record, key) for key in KEYS if key in type(record).model_fields},
        **{key: getattr(attack, key) for key in ("eps", "norm", "steps", "iterate", "seed", "objective", "restarts")},
        **record.cost.model_dump(),
        **{key: getattr(headline, key) for key in ("value", "ci_low", "ci_high")},
        "attack": attack.name,
        "failed_checks": "; ".join(check.name for check in record.checks if not check.passed),
        "value_8bit": rounded.value if rounded else math.nan,
        "image_size": size_text(record.image_size).replace(" × ", "x"),
        "started": record.provenance.started,
    }
    return {key: values[key] for key in KEYS}


def render(records: Iterable["Record"], format: str, transfer: bool = False) -> str:
    """A store's numbers as text.

    Args:
        records: any, in any order.
        format: `rich` (as on a terminal, without colour), `md`, `latex` (needs the package booktabs), `csv` or `json`.
        transfer: also the cells whose attack was made for another task than the one that judged.

    Raises:
        UserError: unknown format.
    """
    writers = {"rich": _rich, "md": _markdown, "csv": _csv, "json": _json, "latex": _latex}
    if format not in writers:
        raise unknown_name("table format", format, FORMATS)
    return writers[format](list(records), transfer)


class Grid(NamedTuple):
    """A table as people see it: headings, and rows of names and numbers."""

    title: str
    heads: list[str]
    columns: list[str]
    rows: list[tuple[list[str], list["Record | None"]]]


def grids(records: Iterable["Record"], transfer: bool) -> list[Grid]:
    """A grid a task; with `transfer` also one for each encoder and dataset that several tasks judged."""
    records = list(records)
    found = [_task_grid(table) for table in task_tables(records)]
    return found + [_transfer_grid(matrix) for matrix in transfer_matrices(records)] if transfer else found


def _task_grid(table: TaskTable) -> Grid:
    rows = [([line.dataset, line.encoder], line.cells) for line in table.lines]
    return Grid(table.title, ["dataset", "encoder"], [column.label for column in table.columns], rows)


def _transfer_grid(matrix: TransferMatrix) -> Grid:
    rows = [([row.made_for, row.label], row.cells) for row in matrix.rows]
    return Grid(matrix.title, ["made for", "attack"], [f"judged by {judge}" for judge in matrix.judges], rows)


def notes(drawn: Iterable[Grid]) -> list[str]:
    """What is to be said of the numbers that are marked."""
    shown = {r.fingerprint: r for grid in drawn for _, cells in grid.rows for r in cells if r}
    return doubts(shown.values())


def print_rich(records: Iterable["Record"], transfer: bool, console: "Console") -> None:
    """Print the tables for people; intervals go below their values where the console is narrow."""
    from rich.measure import Measurement
    from rich.text import Text

    drawn = grids(records, transfer)
    for grid in drawn:
        wide = _rich_table(grid, " ")
        fits = Measurement.get(console, console.options.update(max_width=10_000), wide).maximum <= console.width
        console.print(Text(grid.title, style="bold"))
        console.print(wide if fits else _rich_table(grid, "\n"))
        console.print()
    for note in notes(drawn):
        console.print(Text(f"{MARK} {note}"))
    if not drawn:
        console.print(NO_RECORDS)


def _rich_table(grid: Grid, separator: str) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_lines=separator == "\n")
    for heading in grid.heads:
        drawn.add_column(heading, overflow="fold")
    for column in grid.columns:
        drawn.add_column(Text(column), justify="right", overflow="fold")
    for names, records in grid.rows:
        cells = [_cell(record).replace(" ", separator, 1) for record in records]
        drawn.add_row(*(Text(name) for name in names), *(Text(cell) for cell in cells))
    return drawn


def _rich(records: list["Record"], transfer: bool) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=200, color_system=None)
    with console.capture() as capture:
        print_rich(records, transfer, console)
    return capture.get()


def _markdown(records: list["Record"], transfer: bool) -> str:
    drawn = grids(records, transfer)
    parts = [_markdown_table(grid) for grid in drawn] + [f"{MARK} {escape_markdown(note)}" for note in notes(drawn)]
    return "\n\n".join(parts) + "\n" if parts else f"{NO_RECORDS}\n"


def _markdown_table(grid: Grid) -> str:
    heads = [*grid.heads, *(escape_markdown(column) for column in grid.columns)]
    rules = [*("---" for _ in grid.heads), *("---:" for _ in grid.columns)]
    rows = [
        [*(escape_markdown(name) for name in names), *(_cell(record) for record in records)]
        for names, records in grid.rows
    ]
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, rules, *rows)]
    return "\n".join([f"**{escape_markdown(grid.title)}**", "", *lines])


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is; underscores inside words need no escape and stay readable."""
    text = re.sub(r"([\\`*|\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text.replace("\n", " "))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _latex(records: list["Record"], transfer: bool) -> str:
    drawn = grids(records, transfer)
    parts = [r"% \usepackage{booktabs}", *([_latex_table(grid) for grid in drawn] or [f"% {NO_RECORDS}"])]
    parts += [f"\\noindent {escape_latex(f'{MARK} {note}')}" for note in notes(drawn)]
    return "\n\n".join(parts) + "\n"


def _latex_table(grid: Grid) -> str:
    heads = [*grid.heads, *(escape_latex(column) for column in grid.columns)]
    rows = [
        [escape_latex(text) for text in (*names, *(_cell(record) for record in records))]
        for names, records in grid.rows
    ]
    body = [" & ".join(cells) + r" \\" for cells in rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering\small",
            f"  \\caption{{{escape_latex(grid.title)}}}",
            f"  \\begin{{tabular}}{{{'l' * len(grid.heads)}{'r' * len(grid.columns)}}}",
            r"    \toprule",
            f"    {' & '.join(heads)} \\\\",
            r"    \midrule",
            *(f"    {line}" for line in body),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
    )


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    escaped = "".join(_LATEX.get(character, character) for character in text)
    # After \\ a bracket or a star would be read as its argument.
    return re.sub(r"^[\[*]", r"{\g<0>}", escaped)


def _csv(records: list["Record"], transfer: bool) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, KEYS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_finite(row) for row in table_rows(records, transfer))
    return buffer.getvalue()


def _json(records: list["Record"], transfer: bool) -> str:
    rows = [_finite(row) for row in table_rows(records, transfer)]
    return json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def _cell(record: "Record | None") -> str:
    if record is None:
        return MISSING
    return interval_text(record.headline) + ("" if trusted(record) else f" {MARK}")
