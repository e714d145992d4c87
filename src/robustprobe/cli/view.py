"""`robustprobe view`: the page in the browser, from this machine to this machine."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from robustprobe.cli.results import parse_samples


def view(
    folder: Path,
    /,
    *more: Path,
    samples: str = "",
    browser: Annotated[bool, Parameter(negative="--no-browser")] = True,
    port: int = 0,
) -> None:
    """Show the page of a folder, or of several together, in the browser. Ctrl-C ends it.

    Only this machine can reach it, and nothing but the page is served.

    Parameters
    ----------
    folder
        The folder `robustprobe run --out` wrote.
    more
        Other such folders.
    samples
        Images of each dataset that the viewer shows, or all.
    browser
        Open the browser.
    port
        Port on the loopback interface; by default a free one.
    """
    from robustprobe.core.errors import UserError
    from robustprobe.report.page.render import read_page
    from robustprobe.report.page.serve import serve

    page = read_page([folder, *more], parse_samples(samples))
    try:
        serve(page, browser, port, lambda address: print(f"{address}    Ctrl-C ends it.", flush=True))
    except OSError as error:
        raise UserError(f"port {port} cannot be used: {error}. Give another one with --port, or none.") from error
