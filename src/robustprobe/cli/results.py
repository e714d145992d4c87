"""`robustprobe table` and `robustprobe report`: they read results and never import torch."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from robustprobe.cli._console import new_console, print_for_programs
from robustprobe.core.errors import UserError
from robustprobe.results.store import Store
from robustprobe.results.union import finished

if TYPE_CHECKING:
    from robustprobe.report.page.examples import ImageLimit


def table(
    folder: Path,
    /,
    *,
    format: Literal["rich", "md", "csv", "json", "latex"] = "rich",
    transfer: bool = False,
    layout: Literal["all", "paper"] = "all",
    union_of_norms: bool = False,
    verbose: Annotated[bool, Parameter(alias="-v")] = False,
) -> None:
    """Print the results of a folder as a table.

    Parameters
    ----------
    folder
        A folder of results: the --out of `robustprobe run`.
    format
        rich for the terminal, md, csv, json or latex.
    transfer
        Also show transfer: scores under attacks that were made for another task.
    layout
        all, or paper: results at Linf 8/255 in the columns of the paper's three tables, one row per record.
    union_of_norms
        Instead: scores under the union of the norms that were run, each image by its worst attack of all of them.
    verbose
        Print every finding of the sanity checks below the tables, not one line for each cause.
    """
    if union_of_norms:
        if transfer or layout != "all":
            raise UserError("--union-of-norms prints a table of its own; leave --transfer and --layout out.")
        _print_unions(folder, format)
        return
    from robustprobe.report.tables import results as tables

    records = Store(folder).records()
    if format == "rich":
        tables.print_rich(records, transfer=transfer, console=new_console(), layout=layout, verbose=verbose)
    else:
        print_for_programs(tables.render(records, format, transfer=transfer, layout=layout), format)


def _print_unions(folder: Path, format: str) -> None:
    from robustprobe.report.tables import norm_unions, sheet

    unions = norm_unions.norm_unions(finished([folder], "show"))
    if format == "rich":
        sheet.print_rich(norm_unions.union_document(unions), new_console())
    else:
        print_for_programs(norm_unions.render(unions, format), format)


def report(
    folder: Path,
    /,
    *more: Path,
    out: Annotated[Path | None, Parameter(alias="-o")] = None,
    samples: str = "",
) -> None:
    """Write the results of one or more folders as one self-contained HTML page.

    Parameters
    ----------
    folder
        A folder of results: the --out of `robustprobe run`.
    more
        More folders of results.
    out
        The HTML file; by default report.html in the first folder.
    samples
        Number of example images of each dataset in the page, or all. By default 24, fewer where they take over 12 MB.
    """
    from robustprobe.report.page.render import write_page

    wish = parse_samples(samples)
    print(write_page([folder, *more], out or folder / "report.html", wish).resolve())


def parse_samples(samples: str) -> "ImageLimit | None":
    """What the viewer is to show. Raises UserError for what is neither a number nor `all`."""
    from robustprobe.report.page.examples import ImageLimit

    if not samples:
        return None
    if samples != "all" and not samples.isdecimal():
        raise UserError(f"samples '{samples}' is neither a number of images nor 'all'; give one of the two.")
    return ImageLimit(None if samples == "all" else int(samples), math.inf)
