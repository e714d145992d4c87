"""`robustprobe table` and `robustprobe report`: they read results and never import torch."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from robustprobe.cli._console import new_console
from robustprobe.store import Store


def table(
    folder: Path,
    /,
    *,
    format: Literal["rich", "md", "csv", "json", "latex"] = "rich",
    transfer: bool = False,
    layout: Literal["all", "paper"] = "all",
) -> None:
    """Print the results of a folder as a table.

    Parameters
    ----------
    folder
        The folder `robustprobe run --out` wrote.
    format
        rich for the terminal, md, csv, json or latex.
    transfer
        Also numbers where the attack was made for another task's head.
    layout
        all, or paper: results at Linf 8/255 in the columns of the paper's three tables, one record a cell.
    """
    from robustprobe.report import tables

    records = Store(folder).records()
    if format == "rich":
        tables.print_rich(records, transfer=transfer, console=new_console(), layout=layout)
    else:
        print(tables.render(records, format, transfer=transfer, layout=layout))


def report(folder: Path, /, *, out: Annotated[Path | None, Parameter(alias="-o")] = None) -> None:
    """Write the results of a folder as one self-contained HTML page.

    Parameters
    ----------
    folder
        The folder `robustprobe run --out` wrote.
    out
        The page; by default report.html in the folder.
    """
    from robustprobe.report.page import write_page

    print(write_page(folder, out or folder / "report.html").resolve())
