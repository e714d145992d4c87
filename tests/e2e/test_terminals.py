"""Terminals and pipes of any encoding, and pipes that are closed early: no command ends in a traceback."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.test_compare import SMALL, cifar, fill

pytestmark = pytest.mark.e2e
PROGRAM = [sys.executable, "-c", "from robustprobe.cli import main; main()"]
NARROW = {
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "LANG=C": {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
NAME = "ä↑模型"


def answer(*arguments: object, **settings: str) -> subprocess.CompletedProcess[bytes]:
    environment = {k: v for k, v in os.environ.items() if k not in ("LANG", "LC_ALL", "PYTHONIOENCODING", "PYTHONUTF8")}
    command = [*PROGRAM, *(str(a) for a in arguments)]
    return subprocess.run(command, capture_output=True, env={**environment, **settings}, timeout=300, check=False)


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """Results of an encoder whose name no narrow encoding can show."""
    ids = {"id": ["i"], "correct": [1.0]}
    return fill(tmp_path / "results", (cifar("pgd", 1.0, encoder=NAME), ids), (cifar("clean", 1.0), ids)).folder


@pytest.mark.parametrize("encoding", NARROW)
@pytest.mark.parametrize(
    "command",
    ["table", "table --format md", "table --format csv", "table --format latex", "report", "compare", "compare paper"],
)
def test_what_an_encoding_lacks_is_shown_as_plain_text(named: Path, command: str, encoding: str) -> None:
    name, *options = command.split()
    other = [] if name != "compare" else options or [str(named)]
    done = answer(name, named, *other, *(options if name == "table" else []), **NARROW[encoding])
    assert (done.returncode, done.stderr) == (0, b"")
    if name == "table":
        shown = done.stdout.decode("cp1252").replace(r"$\uparrow$", "^")
        assert "a^??" in shown or "ä^??" in shown
    if name == "report":
        assert NAME in (named / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("encoding", NARROW)
def test_json_keeps_every_character(named: Path, encoding: str) -> None:
    done = answer("table", named, "--format", "json", **NARROW[encoding])
    rows = json.loads(done.stdout.decode("cp1252"))
    assert {row["encoder"] for row in rows} == {NAME, SMALL}


def test_csv_in_utf_8_keeps_every_character(named: Path) -> None:
    done = answer("table", named, "--format", "csv", PYTHONIOENCODING="utf-8")
    assert NAME in {row["encoder"] for row in csv.DictReader(io.StringIO(done.stdout.decode("utf-8")))}


@pytest.mark.parametrize("encoding", NARROW)
def test_a_run_ends_well_in_a_narrow_terminal_and_writes_utf_8(my_encoder: Path, tmp_path: Path, encoding: str) -> None:
    out = tmp_path / "out"
    options = ["--dataset", "scenes", "--limit", "4", "--train-limit", "8", "--task", "segmentation"]
    options += ["--attack", "clean", "--examples", "0", "--out", str(out)]
    done = answer("run", "--encoder", f"unsere={my_encoder}:Tiny", *options, **NARROW[encoding])
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr + done.stdout
    assert "unsere" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("encoding", NARROW)
def test_a_mistake_is_told_in_a_narrow_terminal(tmp_path: Path, encoding: str) -> None:
    done = answer("table", tmp_path / "nowhere-↑", **NARROW[encoding])
    assert done.returncode == 1
    assert done.stderr.startswith(b"robustprobe: no results in")


@pytest.mark.parametrize(
    "command",
    [
        ["list", "attacks", "--format", "json"],
        ["--help"],
        ["table", "RESULTS"],
        ["table", "RESULTS", "--format", "csv"],
    ],
)
def test_a_reader_that_leaves_early_is_no_fault(named: Path, command: list[str]) -> None:
    arguments = [str(named) if word == "RESULTS" else word for word in command]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*PROGRAM, *arguments], stdout=write, stderr=subprocess.PIPE, timeout=300, check=False)
    os.close(write)
    assert done.stderr == b""
    assert done.returncode in (0, 1, 141)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("command", [["list", "attacks", "--format", "json"], ["table", "RESULTS"], ["--help"]])
def test_an_output_that_is_full_is_one_message(named: Path, command: list[str]) -> None:
    arguments = [str(named) if word == "RESULTS" else word for word in command]
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*PROGRAM, *arguments], stdout=full, stderr=subprocess.PIPE, timeout=300, check=False)
    [line] = done.stderr.decode().splitlines()
    assert line.startswith("robustprobe: the output cannot be written: No space left on device")
    assert done.returncode == 1
