"""What the help of every command says, and how it is arranged."""

import functools
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from cyclopts import App

from robustprobe.cli import app
from robustprobe.core.former_names import FORMER_OPTIONS
from tests.e2e.program import Answer

pytestmark = pytest.mark.e2e
Call = Callable[..., Answer]
COMMANDS = [
    "demo", "run", "table", "report", "view", "plot", "compare", "merge", "leaderboard",
    "export", "export rows", "export images", "export hub", "submit", "verify",
    "harden", "curve", "init", "schema", "list",
    "check", "check encoder", "fetch", "data", "data check", "data download", "data ids", "doctor",
]  # fmt: skip
NEGATIVE = {"--no-augment", "--no-browser"}
FOREIGN = (
    "repeatable",
    "repeat for",
    "harm",
    "doubt",
    "narrowed",
    "an image,",
    "an update",
    "an epoch,",
    "image by image",
)
HEADING = re.compile(r"^╭─ (.+?) ─+╮$", re.MULTILINE)


def help_of(call: Call, command: str) -> str:
    answer = call(*command.split(), "--help")
    assert (answer.code, answer.err) == (0, "")
    return answer.out


def headings(text: str) -> list[str]:
    return HEADING.findall(text)


def test_commands_stand_in_groups(call: Call) -> None:
    text = call("--help").out
    assert headings(text) == ["Evaluate", "Look at results", "Export", "Share", "Harden", "Set up", "Options"]
    shown = re.findall(r"^│ (\w+)  ", text, re.MULTILINE)
    assert shown == [command for command in COMMANDS if " " not in command]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in ("check", "data", "export")])
def test_help_of_a_command_holds_its_whole_docstring(call: Call, command: str) -> None:
    function = app.parse_commands(command.split())[1][-1].default_command
    assert function is not None
    description = (function.__doc__ or "").partition("Parameters\n")[0]
    words = re.sub(r"[`*\s]+", " ", description).strip()
    assert words
    assert words in re.sub(r"[`*\s]+", " ", help_of(call, command))


WHAT, WHERE, OUTPUT = "What to evaluate", "Where and how", "Output"


@pytest.mark.parametrize(
    ("command", "groups"),
    [
        ("run", ["Arguments", WHAT, "Attacks", "Heads", WHERE, OUTPUT, "Gates"]),
        ("curve", ["Arguments", WHAT, "Attacks", "Heads", WHERE, OUTPUT]),
        ("harden", ["Encoder and images", "Method and inner attack", "Training", WHERE, OUTPUT]),
    ],
)
def test_options_stand_in_groups(call: Call, command: str, groups: list[str]) -> None:
    assert headings(help_of(call, command)) == groups


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_todays_options_and_the_fields_words(call: Call, command: str) -> None:
    text = help_of(call, command)
    options = set(re.findall(r"--[a-z][a-z0-9-]*", text))
    assert not any(option.startswith("--empty-") for option in options)
    assert {option for option in options if option.startswith("--no-")} <= NEGATIVE
    assert not options & set(FORMER_OPTIONS)
    assert "False" not in text
    words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split()).lower()
    assert not [word for word in FOREIGN if word in words]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in ("check", "data", "export")])
def test_every_option_is_explained(command: str) -> None:
    found = functools.reduce(App.__getitem__, command.split(), app).assemble_argument_collection(parse_docstring=True)
    shown = [argument for argument in found if argument.show]
    assert shown
    for argument in shown:
        text = argument.parameter.help or ""
        assert text.endswith("."), argument.name
        several = argument.name.startswith("--") and "list[" in str(argument.hint)
        assert several == ("Can be given several times" in " ".join(text.split())), argument.name


@pytest.mark.parametrize("arguments", [["--version"], ["list", "tasks"]])
def test_the_package_runs_as_a_module(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "robustprobe", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()
