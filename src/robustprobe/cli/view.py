"""`robustprobe view`: the page in the browser, from this machine to this machine."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from robustprobe.cli._numbers import WholeNumber
from robustprobe.cli.results import parse_samples


def view(
    folder: Path,
    /,
    *more: Path,
    samples: str = "",
    browser: Annotated[bool, Parameter(negative="--no-browser")] = True,
    port: WholeNumber = 0,
) -> None:
    """Show the page of one or more folders in the browser. Ctrl-C ends it.

    Only this machine can reach the page, and nothing else is served.

    Parameters
    ----------
    folder
        A folder of results: the --out of `robustprobe run`.
    more
        More folders of results.
    samples
        Number of example images of each dataset in the page, or all.
    browser
        Open the page in the browser.
    port
        Port on this machine. 0: a free one.
    """
    from robustprobe.core.errors import UserError
    from robustprobe.report.page.render import read_page
    from robustprobe.report.page.serve import serve

    page = read_page([folder, *more], parse_samples(samples))
    try:
        serve(page, browser, port, lambda address: print(f"{address}    Ctrl-C ends it.", flush=True))
    except OSError as error:
        raise UserError(f"port {port} cannot be used: {error}. Give another one with --port, or none.") from error
