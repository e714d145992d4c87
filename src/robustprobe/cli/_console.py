"""Where text goes: terminals and pipes of any encoding, also such that are closed early."""

import codecs
import json
import os
import sys
import unicodedata
from typing import NoReturn, final

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text

WIDTH = 120
CLOSED = 141
"""Exit code of a program whose reader has gone, as of those that end by SIGPIPE."""
PLAIN = "robustprobe.plain"
SPIN_COUNT = "3000"
_LIKE = {
    "↑": "^",
    "↓": "v",
    "→": "->",
    "×": "x",
    "−": "-",
    "—": "-",
    "–": "-",
    "…": "...",
    "†": "+",
    "°": " deg",
    "ℓ": "l",
    "∞": "inf",
    "≥": ">=",
    "≤": "<=",
    "\N{NO-BREAK SPACE}": " ",
}


@final
class TerminalConsole(Console):
    """A console whose program ends without a word where its reader has gone."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        end_quietly()


def new_console() -> Console:
    """A console as wide as the terminal; where there is none, as $COLUMNS says or wide enough for most tables.

    Text is shown as it is: brackets in names are no markup, and `corruption:fog: 0.3` holds no code of an emoji.
    """
    if sys.stdout.isatty():
        return TerminalConsole(markup=False, emoji=False)
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdigit() and int(columns) else WIDTH
    return TerminalConsole(markup=False, emoji=False, width=width)


def opening(words: str) -> Text:
    """The first line of a command: the program's name in bold, then what it does."""
    return Text.assemble(("robustprobe", "bold"), f" {words}")


def bars_of(console: Console, *columns: ProgressColumn, shown: bool) -> Progress:
    """Progress bars, each described as it is written; nothing is drawn where they are not `shown`."""
    described = TextColumn("{task.description}", markup=False)
    return Progress(described, BarColumn(), *columns, console=console, disable=not shown, transient=True)


def prepare_streams() -> None:
    """From now on what an output's encoding has no character for is shown as the most similar plain text."""
    codecs.register_error(PLAIN, _plain)
    for stream in (sys.stdout, sys.stderr):
        # Streams that were put in place of the usual ones may have no encoding.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors=PLAIN)


def print_for_programs(text: str, format: str) -> None:
    """Print what a program reads: JSON keeps every character, escaped where the output's encoding lacks it."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        if format == "json":
            text = "".join(c if c.isascii() else json.dumps(c)[1:-1] for c in text)
    print(text, end="")


def end_quietly(code: int = CLOSED) -> NoReturn:
    """End the program without a word on its output, which nobody reads or can be written any more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    sys.exit(code)


def prepare_threads() -> None:
    """From now on waiting threads of torch give their core away sooner, unless the environment says how they wait.

    Without it GNU OpenMP lets them spin for milliseconds, and where other programs need the cores all threads wait for
    a spinning one (`benchmarks/busy_machine.py`). It is read when torch is loaded.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_similar, error.object[error.start : error.end])), error.end


def _similar(character: str) -> str:
    if character in _LIKE:
        return _LIKE[character]
    letters = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return letters or "?"
