"""Tables of text, written for terminals, Markdown, LaTeX, CSV and JSON; independent of records."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from robustprobe.core.errors import unknown_name

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

FORMATS = ("rich", "md", "csv", "json", "latex")
TEXT_WIDTH = 200
LETTERS = 26
NAMES_WIDTH = 24
"""Columns of numbers fold unless this width is left for the names."""
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
    "→": r"$\rightarrow$",
    "×": r"$\times$",
    "†": r"$\dagger$",
    "−": "$-$",
    "—": "---",
    "∞": r"$\infty$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "\n": " ",
}


_NORMS = {"linf": r"$\ell_\infty$", "l2": r"$\ell_2$", "l1": r"$\ell_1$"}


class Row(NamedTuple):
    """The names of a row, and its numbers as text; only names need escaping."""

    names: list[str]
    cells: list[str]


class Sheet(NamedTuple):
    """A table as people see it: headings of names and of numbers, rows, and sentences below.

    Neighbouring rows that share their first `grouped` names show them once. `best` are the rows and columns of numbers
    to print in bold where a format can.
    """

    title: str
    heads: list[str]
    columns: list[str]
    rows: list[Row]
    notes: Sequence[str] = ()
    grouped: int = 0
    best: frozenset[tuple[int, int]] = frozenset()
    across: str = "attack"
    """What the columns are, which is the heading where they become rows."""

    def groups(self) -> list[tuple[list[str], list[Row]]]:
        """The shared names and the rows of each group; without `grouped` one group without names."""
        found = groupby(self.rows, lambda row: row.names[: self.grouped])
        return [(names, [Row(row.names[self.grouped :], row.cells) for row in rows]) for names, rows in found]


class Document(NamedTuple):
    """Tables, and sentences below the last one."""

    sheets: list[Sheet]
    notes: list[str]
    nothing: str = ""
    """The text where there is no table."""


def text(document: Document, format: str) -> str:
    """Tables for people as text.

    Args:
        document: what to write.
        format: `rich` (as on a terminal, without colour), `md` or `latex` (needs the packages booktabs and graphicx).

    Raises:
        UserError: unknown format.
    """
    writers = {"rich": _rich, "md": _markdown, "latex": _latex}
    if format not in writers:
        raise unknown_name("table format", format, FORMATS)
    return writers[format](document)


def print_rich(document: Document, console: "Console") -> None:
    """Print tables for people; intervals go below their values where the console is narrow."""
    from rich.measure import Measurement
    from rich.text import Text

    for sheet in document.sheets:
        wide = _rich_table(sheet, " ", console.width)
        fits = Measurement.get(console, console.options.update(max_width=10_000), wide).maximum <= console.width
        console.print(Text(sheet.title, style="bold"))
        console.print(wide if fits else _rich_table(sheet, "\n", console.width))
        for note in sheet.notes:
            console.print(Text(note))
        console.print()
    for note in document.notes:
        console.print(Text(note))
    if not document.sheets:
        console.print(document.nothing)


def _rich_table(sheet: Sheet, separator: str, width: int) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # Groups are told apart by a line between them, so that their own rows may stand close.
    close = bool(sheet.grouped)
    padding = (0, 0 if close else 1, 0, 0)
    drawn = Table(box=box.SIMPLE_HEAD, padding=padding, show_lines=separator == "\n" and not close)
    if sheet.grouped:
        drawn.add_column(", ".join(sheet.heads[: sheet.grouped]), overflow="fold")
    for heading in sheet.heads[sheet.grouped :]:
        drawn.add_column(heading, overflow="fold")
    keep = close and width - _numbers_width(sheet, separator) >= NAMES_WIDTH
    for column in sheet.columns:
        # Rich shrinks columns that may wrap first: names fold before the few numbers of a group do.
        drawn.add_column(Text(column), justify="right", overflow="fold", no_wrap=keep)
    for shared, rows in sheet.groups():
        for names, cells in _stacked(shared, rows) if close else rows:
            shown = [*names, *(_split(cell, separator) for cell in cells)]
            drawn.add_row(*(Text(cell, no_wrap=False) for cell in shown))
        drawn.add_section()
    return drawn


def _split(cell: str, separator: str) -> str:
    """A cell with its interval behind `separator`."""
    return cell.replace(" [", f"{separator}[", 1)


def _numbers_width(sheet: Sheet, separator: str) -> int:
    """Width of all columns of numbers where none of them folds."""
    columns = zip(sheet.columns, *(row.cells for row in sheet.rows), strict=True)
    return sum(
        1 + max(len(line) for cell in column for line in _split(cell, separator).split("\n")) for column in columns
    )


def _stacked(shared: list[str], rows: list[Row]) -> list[Row]:
    """Rows that carry the names of their group one below the other, in one column."""
    blank = Row([""] * len(rows[0].names), [""] * len(rows[0].cells))
    rows = rows + [blank] * (len(shared) - len(rows))
    shared = shared + [""] * (len(rows) - len(shared))
    return [Row([name, *row.names], row.cells) for name, row in zip(shared, rows, strict=True)]


def _rich(document: Document) -> str:
    return as_terminal(lambda console: print_rich(document, console))


def as_terminal(show: Callable[["Console"], None]) -> str:
    """What a wide terminal without colour shows."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=TEXT_WIDTH, color_system=None, markup=False, emoji=False)
    with console.capture() as capture:
        show(console)
    return capture.get()


def _markdown(document: Document) -> str:
    parts = [part for sheet in document.sheets for part in (_markdown_table(sheet), _markdown_notes(sheet.notes))]
    parts = [part for part in [*parts, *(escape_markdown(note) for note in document.notes)] if part]
    return "\n\n".join(parts) + "\n" if parts else f"{document.nothing}\n"


def _markdown_table(sheet: Sheet) -> str:
    heads = [escape_markdown(heading) for heading in (*sheet.heads, *sheet.columns)]
    rules = [*("---" for _ in sheet.heads), *("---:" for _ in sheet.columns)]
    rows = [[*(escape_markdown(name) for name in row.names), *row.cells] for row in sheet.rows]
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, rules, *rows)]
    return "\n".join([f"**{escape_markdown(sheet.title)}**", "", *lines])


def _markdown_notes(notes: Sequence[str]) -> str:
    return "\n".join(f"- {escape_markdown(note)}" for note in notes)


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is; underscores inside words need no escape and stay readable."""
    text = re.sub(r"([\\`*|\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text.replace("\n", " "))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _latex(document: Document) -> str:
    labels = _latex_labels(document.sheets)
    parts = [_latex_table(sheet, label) for sheet, label in zip(document.sheets, labels, strict=True)]
    notes = [f"\\noindent {_latex_words(note)}" for note in document.notes]
    return "\n\n".join([r"% \usepackage{booktabs,graphicx}", *(parts or [f"% {document.nothing}"]), *notes]) + "\n"


def _latex_labels(sheets: Sequence[Sheet]) -> list[str]:
    """`tab:classification`, after the first words of each title, unique."""
    labels: list[str] = []
    for sheet in sheets:
        words = re.findall(r"[a-z0-9]+", sheet.title.lower().partition(":" if ": " in sheet.title else ";")[0])
        label, count = f"tab:{'-'.join(words)}", 2
        while label in labels:
            label, count = f"tab:{'-'.join(words)}-{count}", count + 1
        labels.append(label)
    return labels


def _latex_words(text: str) -> str:
    """A sentence for LaTeX, with the norms as the field writes them."""
    return re.sub(r"(?<![\w/-])(linf|l2|l1)(?![\w/-])", lambda found: _NORMS[found[0]], escape_latex(text))


def _latex_table(sheet: Sheet, label: str) -> str:
    heads = [_latex_words(heading) for heading in (*sheet.heads, *sheet.columns)]
    best = ["Bold: the best value of its dataset and column."] if sheet.best else []
    notes = [r"\\ ".join(_latex_words(note) for note in (*best, *sheet.notes))] if best or sheet.notes else []
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering\small",
            f"  \\caption{{{_latex_words(sheet.title)}}}",
            f"  \\label{{{label}}}",
            # Wide tables shrink to the text; narrow ones stay as they are.
            r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            f"  \\begin{{tabular}}{{{'l' * len(sheet.heads)}{'r' * len(sheet.columns)}}}",
            r"    \toprule",
            f"    {' & '.join(heads)} \\\\",
            r"    \midrule",
            *(f"    {line}" for line in _latex_lines(sheet)),
            r"    \bottomrule",
            r"  \end{tabular}}",
            *(f"  \\par\\smallskip\\raggedright\\footnotesize {note}" for note in notes),
            r"\end{table}",
        ]
    )


def _latex_lines(sheet: Sheet) -> list[str]:
    lines: list[str] = []
    place = 0
    for shared, rows in sheet.groups():
        if sheet.grouped and lines:
            lines.append(r"\addlinespace")
        for position, row in enumerate(rows):
            names = shared if position == 0 else [""] * len(shared)
            cells = [_latex_cell(cell, (place, column) in sheet.best) for column, cell in enumerate(row.cells)]
            lines.append(" & ".join([*(escape_latex(name) for name in (*names, *row.names)), *cells]) + r" \\")
            place += 1
    return lines


def _latex_cell(text: str, is_best: bool) -> str:
    """A number with its interval and mark; of the best the value alone is bold."""
    value, space, rest = escape_latex(text).partition(" ")
    return f"\\textbf{{{value}}}{space}{rest}" if is_best else f"{value}{space}{rest}"


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    escaped = "".join(_LATEX.get(character, character) for character in text)
    # After \\ a bracket or a star would be read as its argument.
    return re.sub(r"^[\[*]", r"{\g<0>}", escaped)


def csv_text(rows: Iterable[Mapping[str, Any]], keys: Sequence[str]) -> str:
    """Rows as CSV; values that are not finite stay empty, sentences of a list are joined."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: " ".join(v) if isinstance(v, list) else v for k, v in finite(row).items()} for row in rows)
    return buffer.getvalue()


def json_text(content: Any) -> str:
    """JSON for programs; refuses NaN, see `finite`."""
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with None for values that are not finite."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def footnotes(said: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
    """Marks for the rows of a table and the sentences they refer to.

    Args:
        said: for each row, its notes.

    Returns:
        The letters of each row, and the sentences: first those that hold for every row, without a letter.
    """
    texts = list(dict.fromkeys(text for own in said for text in own))
    everywhere = [text for text in texts if all(text in own for own in said)]
    letters = {text: _letter(position) for position, text in enumerate(t for t in texts if t not in everywhere)}
    between = "," if len(letters) > LETTERS else ""
    marks = [between.join(letter for text, letter in letters.items() if text in own) for own in said]
    return marks, [*everywhere, *(f"{letter}: {text}" for text, letter in letters.items())]


def _letter(position: int) -> str:
    """`a` to `z`, then `aa`, `ab` and so on."""
    ahead, own = divmod(position, LETTERS)
    return (_letter(ahead - 1) if ahead else "") + chr(ord("a") + own)
