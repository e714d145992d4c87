"""What a finished run prints: the headline of the page first, then tables in the width of the terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from robustprobe.report.page.lead import lead, strongest_sheet
from robustprobe.report.page.render import write_page
from robustprobe.report.tables.blocks import MARK
from robustprobe.report.tables.fitting import print_fitting
from robustprobe.report.tables.results import print_rich
from robustprobe.results.union import Found

PAGE = "report.html"
OWN = "Your own encoder: robustprobe run quick --encoder my.py:MyEncoder (or timm:NAME, hf:NAME, file:PATH)"


def show_outcome(console: Console, found: Sequence[Found], out: Path, *, brief: bool, verbose: bool) -> None:
    """Print what was found and write the page.

    Args:
        found: finished cells of the run.
        out: the folder of results; the page goes there.
        brief: one small table, as the demo shows it.
        verbose: transfer between tasks too, and every finding of the sanity checks.
    """
    if not found:
        return
    records = [one.record for one in found]
    console.print()
    console.print(Text(lead(found), style="bold"))
    console.print()
    if brief and not verbose:
        sheet = strongest_sheet(found)
        print_fitting(sheet, console)
        if any(MARK in cell for row in sheet.rows for cell in row.cells):
            console.print(f"{MARK} a sanity check of this number failed; the page says which.")
    else:
        print_rich(records, verbose, console, verbose=verbose, pointer="What was measured where: on the page, or -v")
    page = write_page(out, out / PAGE)
    console.print(f"Results: {out}", soft_wrap=True, highlight=False)
    console.print(f"Page: {page.resolve().as_uri()}", soft_wrap=True, highlight=False)
    if brief:
        console.print(OWN, soft_wrap=True, highlight=False)
