"""The command line: thin, and without torch until a command needs it."""

import shlex
import signal
import sys

from cyclopts import App, CycloptsError, Group, Parameter

from robustprobe.core.errors import UserError
from robustprobe.core.former_names import FORMER_KEYS

app = App(
    name="robustprobe",
    help="How robust is a vision encoder, for everything it will be used for?",
    version=lambda: _version(),
    suppress_keyboard_interrupt=False,
    # An option has no second form such as --no-dry-run or --empty-encoder unless it asks for one.
    default_parameter=Parameter(negative=()),
)
EVALUATE, LOOK, HARDEN, SET_UP = (
    Group(name, sort_key=order) for order, name in enumerate(("Evaluate", "Look at results", "Harden", "Set up"))
)
_COMMANDS = {
    EVALUATE: {
        "demo": (
            "run:demo",
            "Evaluate the bundled encoders on generated scenes: no download, no GPU, about four minutes.",
        ),
        "run": ("run:run", "Attack encoders and evaluate them on every task, as a suite file or options say."),
        "check": ("check:check", "Check that an encoder keeps the contract that attacks and heads rely on."),
    },
    LOOK: {
        "table": ("results:table", "Print the results of a folder as a table."),
        "report": ("results:report", "Write the results of folders as one self-contained HTML page."),
        "view": ("view:view", "Show that page in the browser."),
        "plot": ("plot:plot", "Draw a chart of the results as SVG, PNG or PDF."),
        "compare": ("compare:compare", "Print results beside the paper's numbers, or beside those of another folder."),
        "merge": ("merge:merge", "Copy the results of several folders into one, and name what they disagree on."),
        "leaderboard": ("leaderboard:leaderboard", "Rank many encoders, as a site with a page per encoder."),
    },
    HARDEN: {
        "harden": ("harden:harden", "Fine-tune an encoder without labels so that attacks move its features less."),
        "curve": ("curve:curve", "Evaluate the checkpoints of a hardening run, as a table and a plot over epochs."),
    },
    SET_UP: {
        "list": ("listing:list_things", "List encoders, datasets, tasks, attacks, defences or suites by name."),
        "fetch": ("fetch:fetch", "Download the weights a suite needs, and say which of its datasets are there."),
        "doctor": ("doctor:doctor", "Show the machine, versions, caches, and datasets found or missing."),
    },
}
for _group, _commands in _COMMANDS.items():
    for _name, (_home, _help) in _commands.items():
        app.command(f"robustprobe.cli.{_home}", name=_name, help=_help, group=_group)

_data = App(
    name="data",
    help="Check a dataset's folder, download it, or list the images that a limit takes.",
    group=SET_UP,
    default_parameter=Parameter(negative=()),
)
_data.command("robustprobe.cli.data:check", name="check", help="Compare a dataset's folder with the official one.")
_data.command("robustprobe.cli.data:download", name="download", help="Download a dataset where that is offered.")
_data.command("robustprobe.cli.data:ids", name="ids", help="Print the ids of the images that a limit takes.")
app.command(_data)


def _version() -> str:
    from importlib.metadata import version

    return version("robustprobe")


def _refuse_former_options(arguments: list[str]) -> None:
    """Raises UserError for an option of an earlier version, with today's name."""
    for argument in arguments:
        name = argument.partition("=")[0]
        if name.startswith("--") and (today := FORMER_KEYS.get(name[2:].replace("-", "_"))):
            raise UserError(f"{name} is called --{today.replace('_', '-')} now.")


def main() -> None:
    """Exit codes: 0 done; 1 the user's mistake; 2 some cells failed; 130 interrupted, resumable."""
    # A scheduler that wants its machine back asks by this signal: the same as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _refuse_former_options(sys.argv[1:])
        app(sys.argv[1:], exit_on_error=False)
    except CycloptsError:
        sys.exit(1)
    except UserError as error:
        # What a file said is repeated in it, and a terminal obeys control characters.
        words = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(error))
        print(f"robustprobe: {words}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        # Once more, and what is being put away would end in a traceback.
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.SIG_IGN)
        command = shlex.join(["robustprobe", *sys.argv[1:]])
        print(
            f"robustprobe: interrupted; all that is finished is kept, and the same command continues: {command}",
            file=sys.stderr,
        )
        sys.exit(130)
