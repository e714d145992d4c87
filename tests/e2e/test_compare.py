"""`robustprobe compare` and `table --layout paper` as their user runs them, on a few cells made by hand."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from robustprobe.results.store import Store
from tests.e2e.program import Answer
from tests.e2e.test_start import _probe
from tests.unit.test_compare import DEACL, cifar, classified, fill

pytestmark = pytest.mark.e2e
Call = Callable[..., Answer]
FORMATS = ["rich", "md", "csv", "json", "latex"]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders: 20 and 100 steps of PGD on the same images, and EmbedAttack in the first alone."""
    short = np.array([1] * 6 + [0] * 34)
    long = np.array([1] * 2 + [0] * 38)
    first = fill(tmp_path / "first", classified(short), classified(short, name="embed", encoder=DEACL))
    second = fill(tmp_path / "second", classified(long, settings={"steps": 100}))
    return first.folder, second.folder


def test_results_beside_the_paper(call: Call, folders: tuple[Path, Path]) -> None:
    answer = call("compare", folders[0], "paper", "--format", "json")
    assert (answer.code, answer.err) == (0, "")
    cells = json.loads(answer.out)["cells"]
    measured = {(c["encoder"], c["weights"], c["attack"]): c for c in cells if c["value"] is not None}
    assert set(measured) == {("dinov2_vits14", "standard", "pgd"), ("dino_vitb16", "deacl", "embed")}
    assert measured["dinov2_vits14", "standard", "pgd"]["difference"] == pytest.approx(0.15)
    assert measured["dino_vitb16", "deacl", "embed"]["difference"] == pytest.approx(0.15 - 0.73)


def test_two_folders_beside_each_other(call: Call, folders: tuple[Path, Path]) -> None:
    answer = call("compare", *folders, "--format", "csv")
    rows = {r["attack"]: r for r in csv.DictReader(io.StringIO(answer.out))}
    assert float(rows["pgd"]["difference"]) == pytest.approx(-0.1)
    assert float(rows["pgd"]["difference_ci_low"]) < -0.1 < float(rows["pgd"]["difference_ci_high"])
    assert rows["pgd"]["notes"] == "steps: 20, then 100."
    assert (rows["embed"]["difference"], rows["embed"]["notes"]) == ("", "Only in the first.")


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_prints(call: Call, folders: tuple[Path, Path], format: str) -> None:
    for arguments in (("compare", folders[0], "paper"), ("compare", *folders), ("compare", folders[0], folders[0])):
        answer = call(*arguments, "--format", format)
        assert (answer.code, answer.err) == (0, "")
        assert "0.15" in answer.out
    answer = call("table", folders[0], "--layout", "paper", "--format", format)
    assert (answer.code, answer.err) == (0, "")
    assert "0.15" in answer.out


def test_comparing_needs_no_torch(folders: tuple[Path, Path]) -> None:
    for second in ("paper", str(folders[1])):
        done = _probe("compare", str(folders[0]), second)
        assert done.returncode == 0, done.stderr
        assert "NO TORCH" in done.stderr


def test_mistakes_get_one_message(call: Call, folders: tuple[Path, Path], tmp_path: Path) -> None:
    empty = Store(tmp_path / "empty").prepare().folder
    (tmp_path / "other").mkdir()
    first, second = folders
    for arguments, words in (
        ((first, "papr"), "'papr' is neither a folder of results nor `paper`"),
        ((first, tmp_path / "other"), "no results in"),
        ((tmp_path / "nowhere", "paper"), "no results in"),
        ((empty, "paper"), "no finished cells in"),
        ((first, empty), "no finished cells in"),
        ((first, second, "--deacl", DEACL), "--deacl names an encoder of the paper"),
        ((first, "paper", "--deacl", "file:weights/dino-decl"), f"Did you mean '{DEACL}'?"),
        ((first, "paper", "--format", "html"), "html"),
    ):
        answer = call("compare", *arguments)
        assert (answer.code, answer.out) == (1, "") or "--format" in arguments
        assert words in " ".join((answer.err + answer.out).split())
        assert "Traceback" not in answer.err + answer.out


def test_a_deacl_encoder_of_another_name_is_named(call: Call, tmp_path: Path) -> None:
    record = cifar("embed", 0.7, encoder="file:mine")
    folder = fill(tmp_path / "mine", (record, {"id": ["a"], "correct": [1]})).folder
    for options, count in (((), 0), (("--deacl", "file:mine"), 1)):
        cells = json.loads(call("compare", folder, "paper", "--format", "json", *options).out)["cells"]
        assert sum(c["value"] is not None for c in cells) == count
