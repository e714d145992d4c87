"""Tables drawn to the width of a terminal: a number and its interval stay on one line, and no heading is broken."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from robustprobe.report.tables.sheet import Row, Sheet

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

GAP = 2
"""Blanks between two columns."""
NAMES_WIDTH = 16
"""Names fold before the numbers do, but not below this width."""


def print_fitting(sheet: Sheet, console: "Console") -> None:
    """Print a table without its notes, in as many parts as the width asks for."""
    from rich.text import Text

    console.print(Text(sheet.title, style="bold"))
    for part in fitting(sheet, console.width):
        console.print(_drawn(part, console.width))
    console.print()


def fitting(sheet: Sheet, width: int) -> list[Sheet]:
    """The table as it is where it fits; else turned, so that columns become rows; else in parts of fewer columns.

    Args:
        sheet: a table whose rows are not grouped.
        width: columns of text that there are.
    """
    turned = transposed(sheet)
    for whole in (sheet, turned):
        if natural_width(whole) <= width:
            return [whole]
    return min((_parts(sheet, width), _parts(turned, width)), key=_lines)


def transposed(sheet: Sheet) -> Sheet:
    """The same numbers with the names of rows as headings."""
    names = [", ".join(dict.fromkeys(filter(None, reversed(row.names)))) for row in sheet.rows]
    rows = [Row([column], [row.cells[k] for row in sheet.rows]) for k, column in enumerate(sheet.columns)]
    return Sheet(sheet.title, [sheet.across], names, rows, sheet.notes)


def natural_width(sheet: Sheet) -> int:
    """Columns of text that a table takes where nothing folds."""
    return _names_width(sheet) + sum(_number_widths(sheet)) - GAP


def _names_width(sheet: Sheet) -> int:
    from rich.cells import cell_len

    columns = zip(sheet.heads, *(row.names for row in sheet.rows), strict=True)
    return sum(GAP + max(map(cell_len, column)) for column in columns)


def _number_widths(sheet: Sheet) -> list[int]:
    from rich.cells import cell_len

    columns = zip(sheet.columns, *(row.cells for row in sheet.rows), strict=True)
    return [GAP + max(map(cell_len, column)) for column in columns]


def _parts(sheet: Sheet, width: int) -> list[Sheet]:
    """The table in parts of as many columns as fit beside the names, one at least."""
    widths = _number_widths(sheet)
    names = min(_names_width(sheet), max(NAMES_WIDTH, width - max(widths, default=0)))
    parts: list[list[int]] = []
    for position, own in enumerate(widths):
        if parts and names + own + sum(widths[k] for k in parts[-1]) - GAP <= width:
            parts[-1].append(position)
        else:
            parts.append([position])
    return [_part(sheet, positions) for positions in parts]


def _part(sheet: Sheet, positions: Sequence[int]) -> Sheet:
    rows = [Row(row.names, [row.cells[k] for k in positions]) for row in sheet.rows]
    return sheet._replace(columns=[sheet.columns[k] for k in positions], rows=rows)


def _lines(parts: Sequence[Sheet]) -> int:
    return sum(len(part.rows) + 3 for part in parts)


def _drawn(sheet: Sheet, width: int) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # The box itself sets one blank between columns.
    padding = (0, GAP - 1, 0, 0)
    table = Table(box=box.SIMPLE_HEAD, padding=padding, show_edge=False, pad_edge=False, collapse_padding=True)
    for heading in sheet.heads:
        table.add_column(Text(heading), overflow="fold")
    whole = min(NAMES_WIDTH, _names_width(sheet)) + sum(_number_widths(sheet)) - GAP <= width
    for heading in sheet.columns:
        table.add_column(Text(heading), overflow="fold", no_wrap=whole)
    for row in sheet.rows:
        table.add_row(*(Text(cell) for cell in (*row.names, *row.cells)))
    return table
