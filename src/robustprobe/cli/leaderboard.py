"""`robustprobe leaderboard`: a site of many encoders. Never imports torch."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def leaderboard(
    folder: Path, /, *, out: Annotated[Path, Parameter(alias="-o")] = Path("site"), title: str | None = None
) -> None:
    """Rank the encoders of all folders of results in a folder, as a site with a page per encoder.

    Parameters
    ----------
    folder
        A folder that holds folders of results or files of `robustprobe submit`, at any depth.
    out
        Folder of the site.
    title
        Heading of the site.
    """
    from robustprobe.report.leaderboard import TITLE, write_leaderboard

    print(write_leaderboard(folder, out, title or TITLE).resolve())
