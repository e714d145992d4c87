"""The numbers of a store as tables: for people (rich, Markdown, LaTeX) and for programs (CSV, JSON)."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from robustprobe.errors import unknown_name
from robustprobe.report._matrix import MISSING, TaskTable, in_order, interval_text, task_tables

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
    *("largest_perturbation", "suite", "started", "fingerprint"),
)
NO_RECORDS = "No finished cells yet."

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
        **{key: getattr(attack, key) for key in ("eps", "norm", "steps", "iterate", "seed")},
        **{key: getattr(headline, key) for key in ("value", "ci_low", "ci_high")},
        "attack": attack.name,
        "value_8bit": rounded.value if rounded else math.nan,
        "image_size": "x".join(str(side) for side in record.image_size),
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


def print_rich(records: Iterable["Record"], transfer: bool, console: "Console") -> None:
    """Print the tables for people; intervals go below their values where the console is narrow."""
    from rich.measure import Measurement
    from rich.text import Text

    tables = task_tables(records, transfer)
    for table in tables:
        wide = _rich_table(table, " ")
        fits = Measurement.get(console, console.options.update(max_width=10_000), wide).maximum <= console.width
        console.print(Text(table.title, style="bold"))
        console.print(wide if fits else _rich_table(table, "\n"))
        console.print()
    if not tables:
        console.print(NO_RECORDS)


def _rich_table(table: TaskTable, separator: str) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_lines=separator == "\n")
    for heading in ("dataset", "encoder"):
        drawn.add_column(heading, overflow="fold")
    for column in table.columns:
        drawn.add_column(Text(column.label), justify="right", overflow="fold")
    for line in table.lines:
        cells = [_cell(record).replace(" ", separator, 1) for record in line.cells]
        drawn.add_row(Text(line.dataset), Text(line.encoder), *(Text(cell) for cell in cells))
    return drawn


def _rich(records: list["Record"], transfer: bool) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=200, color_system=None)
    with console.capture() as capture:
        print_rich(records, transfer, console)
    return capture.get()


def _markdown(records: list["Record"], transfer: bool) -> str:
    tables = [_markdown_table(table) for table in task_tables(records, transfer)]
    return "\n\n".join(tables) + "\n" if tables else f"{NO_RECORDS}\n"


def _markdown_table(table: TaskTable) -> str:
    heads = ["dataset", "encoder", *(escape_markdown(column.label) for column in table.columns)]
    rules = ["---", "---", *("---:" for _ in table.columns)]
    rows = [
        [escape_markdown(line.dataset), escape_markdown(line.encoder), *(_cell(record) for record in line.cells)]
        for line in table.lines
    ]
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, rules, *rows)]
    return "\n".join([f"**{escape_markdown(table.title)}**", "", *lines])


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is; underscores inside words need no escape and stay readable."""
    text = re.sub(r"([\\`*|\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text.replace("\n", " "))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _latex(records: list["Record"], transfer: bool) -> str:
    tables = [_latex_table(table) for table in task_tables(records, transfer)]
    return "\n\n".join([r"% \usepackage{booktabs}", *(tables or [f"% {NO_RECORDS}"])]) + "\n"


def _latex_table(table: TaskTable) -> str:
    heads = ["dataset", "encoder", *(escape_latex(column.label) for column in table.columns)]
    rows = [
        [escape_latex(text) for text in (line.dataset, line.encoder, *(_cell(record) for record in line.cells))]
        for line in table.lines
    ]
    body = [" & ".join(cells) + r" \\" for cells in rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering\small",
            f"  \\caption{{{escape_latex(table.title)}}}",
            f"  \\begin{{tabular}}{{ll{'r' * len(table.columns)}}}",
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
    return MISSING if record is None else interval_text(record.headline)
