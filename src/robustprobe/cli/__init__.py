"""The command line: thin, and without torch until a command needs it."""

import sys

from cyclopts import App, CycloptsError

from robustprobe.errors import UserError

app = App(
    name="robustprobe",
    help="How robust is a vision encoder, for everything it will be used for?",
    version=lambda: _version(),
    suppress_keyboard_interrupt=False,
)
_COMMANDS = {
    "demo": (
        "run:demo",
        "Evaluate the bundled encoders on generated scenes: no download, no GPU, under three minutes.",
    ),
    "run": ("run:run", "Attack encoders and judge them on every task, as a suite file or options say."),
    "table": ("results:table", "Print the results of a folder as a table."),
    "report": ("results:report", "Write the results of a folder as one self-contained HTML page."),
    "compare": ("compare:compare", "Print results beside the paper's numbers, or beside those of another folder."),
    "harden": ("harden:harden", "Fine-tune an encoder without labels so that attacks move its features less."),
    "curve": ("curve:curve", "Evaluate the checkpoints of a hardening run, as a table and a plot over epochs."),
    "list": ("listing:list_things", "List encoders, datasets, tasks, attacks, defences or suites by name."),
    "doctor": ("doctor:doctor", "Show machine, versions, caches and datasets found or missing."),
}
for _name, (_home, _help) in _COMMANDS.items():
    app.command(f"robustprobe.cli.{_home}", name=_name, help=_help)


def _version() -> str:
    from importlib.metadata import version

    return version("robustprobe")


def main() -> None:
    """Exit codes: 0 done; 1 the user's mistake; 2 some cells failed; 130 interrupted, resumable."""
    try:
        app(sys.argv[1:], exit_on_error=False)
    except CycloptsError:
        sys.exit(1)
    except UserError as error:
        print(f"robustprobe: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("robustprobe: interrupted; finished cells are kept, the same command continues.", file=sys.stderr)
        sys.exit(130)
