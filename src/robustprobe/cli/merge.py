"""`robustprobe merge`: several folders of results in one. Never imports torch."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def merge(folder: Path, /, *more: Path, out: Annotated[Path, Parameter(alias="-o")]) -> None:
    """Copy the results of several folders into one. Different results for one cell are an error.

    Nothing is overwritten.

    Parameters
    ----------
    folder
        A folder of results: the --out of `robustprobe run`.
    more
        More folders of results.
    out
        A new folder, or a folder of results, which are kept.
    """
    from robustprobe.results.merge import merge as merge_folders

    done = merge_folders([folder, *more], out)
    print(f"{done.cells} cells and {done.groups} groups of example images copied to {out}; {done.known} were there.")
