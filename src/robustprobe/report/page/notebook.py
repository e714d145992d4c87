"""Results as notebooks show them: the headline, tables with 95 % intervals, and the failed sanity checks."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from robustprobe.report.page.lead import lead
from robustprobe.report.page.render import environment
from robustprobe.report.tables.blocks import BRACKETS, Notes, task_sheets, transfer_sheets
from robustprobe.report.tables.corruptions import attack_tables, corruption_sheets
from robustprobe.report.tables.matrix import task_tables
from robustprobe.report.tables.patches import patch_sheets
from robustprobe.report.tables.sheet import Document
from robustprobe.results.protocol import protocol_name
from robustprobe.results.union import Found

CELL = re.compile(r"(?P<value>[^\[]*?) ?(?P<interval>\[[^\]]*\])?(?P<mark> †[\d,]*)?")


class NotebookCell(NamedTuple):
    """A number, its interval in brackets and the mark of a failed check, each as text and perhaps empty."""

    value: str
    interval: str
    mark: str


def results_html(found: Sequence[Found], transfer: bool = False) -> str:
    """Results as a piece of HTML that needs no style sheet and no script; everything in it is escaped.

    Args:
        found: finished cells.
        transfer: also tables of transfer between tasks.
    """
    records, notes = [one.record for one in found], Notes()
    sheets = [sheet for table in attack_tables(task_tables(records)) for sheet in task_sheets(table, notes)]
    sheets += [*corruption_sheets(records, notes.value), *patch_sheets(records, notes.value)]
    sheets += transfer_sheets(records, notes) if transfer else []
    ending = f"{BRACKETS[:-1]}; protocol {protocol_name(records)}"
    return document_html(Document(sheets, [*notes.lines(), ending]), lead(found))


def document_html(document: Document, heading: str = "") -> str:
    """Tables of text as a piece of HTML; everything in it is escaped."""
    tables = [
        (sheet, [(row.names, [_cell(text) for text in row.cells]) for row in sheet.rows]) for sheet in document.sheets
    ]
    template = environment().get_template("notebook.html.j2")
    return template.render(heading=heading, tables=tables, notes=document.notes, nothing=document.nothing)


def _cell(text: str) -> NotebookCell:
    parts = CELL.fullmatch(text)
    if parts is None:
        return NotebookCell(text, "", "")
    return NotebookCell(*(parts[name] or "" for name in ("value", "interval", "mark")))
