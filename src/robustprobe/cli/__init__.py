"""The command line: thin, and without torch until a command needs it."""

import errno
import shlex
import signal
import sys

from cyclopts import App, CycloptsError, Group, Parameter

from robustprobe.cli._console import end_quietly, prepare_streams, prepare_threads
from robustprobe.core.errors import UserError
from robustprobe.core.former_names import FORMER_OPTIONS


def _shown_default(value: object) -> str | None:
    """What the help shows as the default of an option; None for what goes without saying."""
    return None if value is None or value is False or value == "" else str(value)


app = App(
    name="robustprobe",
    help="How robust is a vision encoder, for everything it will be used for?",
    version=lambda: _version(),
    suppress_keyboard_interrupt=False,
    # An option has no second form such as --no-dry-run or --empty-encoder unless it asks for one.
    default_parameter=Parameter(negative=(), show_default=_shown_default),
)
app["--help"].group = app["--version"].group = Group("Options", sort_key=9)

_COMMANDS = {
    "Evaluate": {
        "demo": (
            "run:demo",
            "Evaluate two bundled encoders on generated scenes: no download, no GPU, about a minute.",
        ),
        "run": ("run:run", "Attack encoders and evaluate them on every task, as a suite file or options say."),
    },
    "Look at results": {
        "table": ("results:table", "Print the results of a folder as a table."),
        "report": ("results:report", "Write the results of folders as one self-contained HTML page."),
        "view": ("view:view", "Open the page of results in the browser."),
        "plot": ("plot:plot", "Draw a chart of the results as SVG, PNG or PDF."),
        "compare": (
            "compare:compare",
            "Compare two folders or encoders, paired over images, or results with the paper.",
        ),
        "merge": ("merge:merge", "Copy the results of several folders into one. Conflicts are an error."),
        "leaderboard": ("leaderboard:leaderboard", "Rank many encoders, as a site with a page per encoder."),
    },
    "Export": {
        "export rows": ("export:rows", "Write the scores of all images as one tidy table, Parquet or CSV."),
        "export hub": ("export:hub", "Write a model card, model-index, evaluation results and BibTeX for the Hub."),
        "export images": ("export:images", "Write the stored adversarial images as PNG files with a table."),
    },
    "Share": {
        "submit": ("submit:submit", "Pack results into one file to send, with the text of a pull request."),
        "verify": ("submit:verify", "Judge stored adversarial images again, and compare with the recorded scores."),
    },
    "Harden": {
        "harden": ("harden:harden", "Fine-tune an encoder without labels so that attacks move its features less."),
        "curve": ("curve:curve", "Evaluate the checkpoints of a hardening run, as a table and a plot over epochs."),
    },
    "Set up": {
        "init": ("setup:init", "Write a commented suite file to start from."),
        "schema": ("setup:schema", "Print the JSON Schema of suite files or records, for editors and programs."),
        "list": (
            "listing:list_things",
            "List encoders, datasets, tasks, attacks, defences, suites, trackers or references by name.",
        ),
        "check encoder": ("check:encoder", "Check that an encoder meets the contract that attacks and heads rely on."),
        "fetch": ("fetch:fetch", "Download the weights that a suite needs, and say which of its datasets are there."),
        "check results": ("check:results", "Compare clean scores of known encoders with the published ones."),
        "data check": ("data:check", "Compare a dataset's folder with the official one."),
        "data download": ("data:download", "Download a dataset, where its source offers that."),
        "data ids": ("data:ids", "Print the ids of the images that a limit takes."),
        "doctor": ("doctor:doctor", "Show the machine, versions, caches, and datasets found or missing."),
    },
}
_FAMILIES = {
    "check": "Check an encoder of your own, or the clean scores of known encoders.",
    "export": "Write results for other programs and places.",
    "data": "Check a dataset's folder, download it, or list the images that a limit takes.",
}


def _register() -> None:
    """Every command by the place of its function, which is imported only when the command is called."""
    parents = {"": app}
    for order, (heading, commands) in enumerate(_COMMANDS.items()):
        group = Group(heading, sort_key=order)
        for position, (words, (home, text)) in enumerate(commands.items()):
            family, _, name = words.rpartition(" ")
            if family not in parents:
                parents[family] = App(name=family, help=_FAMILIES[family], group=group, sort_key=position)
                app.command(parents[family])
            own = None if family else group
            parents[family].command(f"robustprobe.cli.{home}", name=name, help=text, sort_key=position, group=own)


_register()
app.register_install_completion_command(
    help="Install completion of commands and options for the shell in use.", group=app["--help"].group
)


def _version() -> str:
    from importlib.metadata import version

    return version("robustprobe")


def _show_docstrings(arguments: list[str]) -> None:
    """Let `COMMAND --help` show all of the command's docstring; its line in the list of commands would replace it."""
    if not {"--help", "-h"}.intersection(arguments):
        return
    for command in app.parse_commands(arguments)[1][1:]:
        if command.default_command is not None:
            command.help = None


def _refuse_former_options(arguments: list[str]) -> None:
    """Raises UserError for an option of an earlier version, with today's name."""
    for argument in arguments:
        name = argument.partition("=")[0]
        if name in FORMER_OPTIONS:
            raise UserError(f"{name} is called {FORMER_OPTIONS[name]} now; write {FORMER_OPTIONS[name]}.")


def main() -> None:
    """Exit codes: 0 done; 1 the user's mistake; 2 some cells failed; 3 a gate failed; 130 interrupted, resumable."""
    # A scheduler that wants its machine back asks by this signal: the same as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    prepare_streams()
    prepare_threads()
    try:
        _main()
        sys.stdout.flush()
    except BrokenPipeError:
        end_quietly()
    except OSError as error:
        # Of a file the error would hold the name: this is the output itself, on a full disk for instance.
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
            raise
        print(f"robustprobe: the output cannot be written: {error.strerror}. Send it elsewhere.", file=sys.stderr)
        end_quietly(1)


def _main() -> None:
    try:
        _refuse_former_options(sys.argv[1:])
        _show_docstrings(sys.argv[1:])
        app(sys.argv[1:], exit_on_error=False)
    except CycloptsError:
        sys.exit(1)
    except UserError as error:
        # What a file said is repeated in it, and a terminal obeys control characters.
        words = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(error))
        more = f" (More: docs/{error.page})" if error.page else ""
        print(f"robustprobe: {words}{more}", file=sys.stderr)
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
