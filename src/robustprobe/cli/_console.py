"""Where text goes."""

import sys

from rich.console import Console

WIDTH = 120


def new_console() -> Console:
    """A console as wide as the terminal; wide enough for tables where there is none."""
    return Console() if sys.stdout.isatty() else Console(width=WIDTH)
