"""`robustprobe compare`: reads results and never imports torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from robustprobe.cli._console import new_console
from robustprobe.core.errors import UserError
from robustprobe.results.store import Store

if TYPE_CHECKING:
    from robustprobe.report.tables.comparison import Comparison

PAPER = "paper"


def compare(
    folder: Path,
    other: str,
    /,
    *,
    format: Literal["rich", "md", "csv", "json", "latex"] = "rich",
    deacl: str | None = None,
) -> None:
    """Print the results of a folder beside the paper's numbers, or beside those of another folder.

    Parameters
    ----------
    folder
        A folder of results: the --out of `robustprobe run`.
    other
        paper, for the tables of Kowalczuk et al. (2024), or another folder of results. A folder called
        paper is ./paper.
    format
        rich for the terminal, md, csv, json or latex.
    deacl
        With paper: the encoder, as it was given to `run`, that stands for the paper's DINO after DeACL; by default any
        whose card says that `robustprobe harden` made it that way.
    """
    from robustprobe.report.tables import comparison as tables
    from robustprobe.report.tables import sheet

    comparison = _compare(folder, other, deacl)
    if format == "rich":
        sheet.print_rich(comparison.document, new_console())
    else:
        print(tables.render(comparison, format), end="")


def _compare(folder: Path, other: str, deacl: str | None) -> "Comparison":
    store = _finished(folder)
    if other == PAPER:
        from robustprobe.report.paper.compare import compare_paper

        return compare_paper(store.records(), deacl)
    if deacl is not None:
        raise UserError(f"--deacl names an encoder of the paper, and {other} is not `{PAPER}`; leave it away.")
    if not Path(other).is_dir():
        raise UserError(f"'{other}' is neither a folder of results nor `{PAPER}`; give one of the two.")
    from robustprobe.report.tables.compare_folders import compare_folders

    return compare_folders(store, _finished(Path(other)))


def _finished(folder: Path) -> Store:
    store = Store(folder)
    if not store.records():
        raise UserError(f"no finished cells in {folder}, so there is nothing to compare; run the suite first.")
    return store
