"""`robustprobe leaderboard`: a site of many encoders. Never imports torch."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def leaderboard(folder: Path, /, *, out: Annotated[Path, Parameter(alias="-o")] = Path("site")) -> None:
    """Rank the encoders of every folder of results in a folder, as a site with a page for each.

    Parameters
    ----------
    folder
        Holds folders that `robustprobe run --out` wrote, at any depth.
    out
        Folder of the site.
    """
    from robustprobe.report.leaderboard import write_leaderboard

    print(write_leaderboard(folder, out).resolve())
