"""Whole-number options: a fraction is refused, never rounded, by every option of every command."""

from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any, get_args

import pytest
from cyclopts import App, Argument, CycloptsError, Token

from robustprobe.cli import app
from robustprobe.cli._numbers import parse_whole
from robustprobe.core.errors import UserError
from robustprobe.core.spec import Suite, load_suite


def commands(parent: App = app, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], App]]:
    for name in parent:
        if not name.startswith("-"):
            child = parent[name]
            yield (*words, name), child
            yield from commands(child, (*words, name))


def holds(hint: Any, kind: type) -> bool:
    return hint is kind or any(holds(part, kind) for part in get_args(hint))


def whole_options() -> list[tuple[tuple[str, ...], Argument]]:
    """Every option that takes a whole number and any one that a later command brings."""
    return [
        (words, argument)
        for words, command in commands()
        if command.default_command is not None
        for argument in command.assemble_argument_collection()
        if argument.name.startswith("--") and holds(argument.hint, int) and not holds(argument.hint, float)
    ]


def option_id(entry: tuple[tuple[str, ...], Argument]) -> str:
    return " ".join((*entry[0], entry[1].name))


@pytest.mark.parametrize("entry", whole_options(), ids=option_id)
def test_every_whole_number_option_refuses_a_fraction(entry: tuple[tuple[str, ...], Argument]) -> None:
    for fraction in ("1.5", "-0.5", "2.000001"):
        argument = copy(entry[1])
        argument.tokens = [Token(keyword=argument.name, value=fraction)]
        with pytest.raises(CycloptsError, match=f"{argument.name}: {fraction} is no whole number"):
            argument.convert()


def test_the_walk_finds_the_options() -> None:
    found = {option_id(entry) for entry in whole_options()}
    assert {"run --limit", "run --severity", "curve --steps", "harden --layer", "data ids --limit"} <= found
    assert len(found) > 40


@pytest.mark.parametrize(("text", "number"), [("4", 4), (" -3", -3), ("4.0", 4), ("1_000", 1000), ("0x10", 16)])
def test_whole_numbers_are_read(text: str, number: int) -> None:
    assert parse_whole(text) == number


@pytest.mark.parametrize("text", ["1.5", "1e3", "ten", "", ".", "nan", "4.0.0", "0x", "1.5e1"])
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no whole number; give one such as 4"):
        parse_whole(text)


SMALL = "encoders: ['bundled:scenes']\ndatasets: [{name: scenes%s}]\n%s"


@pytest.mark.parametrize(
    ("inside", "line", "key"),
    [
        (", limit: 1.5", "", "limit"),
        (", size: [32.5, 32]", "", "size"),
        ("", "steps: 2.5", "steps"),
        ("", "severity: 2.5", "severity"),
        ("", "seed: 0.5", "seed"),
        ("", "head: {train_limit: 8.5}", "train_limit"),
        ("", "attacks: [{name: pgd, restarts: 1.5}]", "restarts"),
    ],
)
def test_a_suite_file_refuses_a_fraction(tmp_path: Path, inside: str, line: str, key: str) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(SMALL % (inside, line))
    with pytest.raises(UserError, match=rf"{key}.*whole number"):
        load_suite(path)


def test_a_suite_file_takes_whole_numbers_however_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(SMALL % (", limit: 4.0", "steps: '3'"))
    suite: Suite = load_suite(path)
    assert (suite.datasets[0].limit, suite.steps) == (4, 3)
