"""`scripts/compare_rows.py`: the same rows are the same under old and new names; one bit is a difference."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustprobe.results.records import Record
from robustprobe.results.store import Store
from tests.scripts import program
from tests.unit.test_report_tables import attack, make_record

pytestmark = pytest.mark.unit
COLUMNS: dict[str, Any] = {
    "id": ["a", "b", "c"],
    "rmse": np.array([0.5, math.nan, 2.0]),
    "knn_correct": np.array([True, False, True]),
    "predicted": np.arange(6).reshape(3, 2),
}


@pytest.fixture(scope="module")
def compare_rows() -> Callable[[list[str]], int]:
    found: Callable[[list[str]], int] = program("scripts/compare_rows.py").main
    return found


def folder(path: Path, *records: Record, **columns: Any) -> str:
    """A folder of records that all have the standard rows, with columns replaced or, if None, left out."""
    store = Store(path).prepare()
    rows = {name: values for name, values in {**COLUMNS, **columns}.items() if values is not None}
    for record in records:
        store.write_record(record.model_copy(update={"rows_sha256": store.write_rows(record.fingerprint, rows)}))
    return str(path)


def renamed(path: Path, former: str, today: str) -> None:
    """Write an attack of a folder under the name of an earlier version, and without the seal over it."""
    for file in path.glob("cells/*.json"):
        body = file.read_text().rpartition(',\n "content_sha256"')[0] + "\n}"
        file.write_text(body.replace(f'"name": "{today}"', f'"name": "{former}"').replace("target_task", "made_for"))


Compare = Callable[[list[str]], int]
Printed = pytest.CaptureFixture[str]


def test_the_same_folder(compare_rows: Compare, tmp_path: Path, capsys: Printed) -> None:
    one = folder(tmp_path / "a", make_record(attack("clean"), 0.9), make_record(attack("pgd"), 0.1))
    assert compare_rows([one, one]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].split() == ["all", "2", "6", "8", "0", "0"]
    assert lines[-1] == "the same"


def test_names_fingerprints_and_provenance_are_no_difference(
    compare_rows: Compare, tmp_path: Path, capsys: Printed
) -> None:
    record = make_record(attack("surrogate"), 0.2)
    new = record.model_copy(update={"fingerprint": "0" * 16, "suite": "another", "group": "1" * 16})
    former = {"second_correct": COLUMNS["knn_correct"], "knn_correct": None}
    old, today = folder(tmp_path / "a", record, **former), folder(tmp_path / "b", new)
    renamed(Path(old), "layout", "surrogate")
    assert "layout" in next(Path(old).glob("cells/*.json")).read_text()
    assert compare_rows([old, today]) == 0
    assert "surrogate  1 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rmse": np.array([0.5, math.nan, np.nextafter(2.0, 3.0)])}, "rmse: 1 of 3 values, by 4.44e-16"),
        ({"rmse": np.array([0.5, 0.0, 2.0])}, "rmse: 1 of 3 values, by inf"),
        ({"rmse": COLUMNS["rmse"].astype(np.float32)}, "rmse: float64 (3,) and float32 (3,)"),
        ({"predicted": np.arange(6).reshape(3, 2) + np.eye(3, 2, dtype=int)}, "predicted: 2 of 6 values, by 1"),
        ({"knn_correct": np.array([True, True, True])}, "knn_correct: 1 of 3 values, by 1"),
        ({"knn_correct": None}, "knn_correct: missing"),
        ({"id": ["a", "c", "b"]}, "other images, or in another order"),
    ],
)
def test_a_bit_is_a_difference(
    compare_rows: Compare, tmp_path: Path, capsys: Printed, changed: dict[str, Any], said: str
) -> None:
    record = make_record(attack("pgd"), 0.1)
    old, new = folder(tmp_path / "a", record), folder(tmp_path / "b", record, **changed)
    assert compare_rows([old, new]) == 1
    out = capsys.readouterr().out
    assert said in out
    assert out.endswith("different\n")


def test_the_sign_of_zero_is_a_bit(compare_rows: Compare, tmp_path: Path) -> None:
    record = make_record(attack("pgd"), 0.1)
    old, new = (folder(tmp_path / str(zero), record, rmse=np.array([zero] * 3)) for zero in (0.0, -0.0))
    assert compare_rows([old, new]) == 1


def test_metrics_and_intervals_are_compared(compare_rows: Compare, tmp_path: Path, capsys: Printed) -> None:
    old, new = (folder(tmp_path / str(value), make_record(attack("pgd"), value)) for value in (0.1, 0.2))
    assert compare_rows([old, new]) == 1
    assert "metrics top-1: [0.1" in capsys.readouterr().out


def test_a_new_column_is_listed_and_no_difference(compare_rows: Compare, tmp_path: Path, capsys: Printed) -> None:
    record = make_record(attack("pgd"), 0.1)
    old, new = folder(tmp_path / "a", record), folder(tmp_path / "b", record, extra=np.zeros(3))
    assert compare_rows([old, new]) == 0
    assert f"only in {new}: extra" in capsys.readouterr().out


def test_a_missing_cell_is_a_difference_unless_a_subset_is_asked_for(
    compare_rows: Compare, tmp_path: Path, capsys: Printed
) -> None:
    clean, pgd = make_record(attack("clean"), 0.9), make_record(attack("pgd"), 0.1)
    old, new = folder(tmp_path / "a", clean, pgd), folder(tmp_path / "b", clean)
    for both in ([old, new], [new, old]):
        assert compare_rows(both) == 1
        assert f"only in {old}: " in capsys.readouterr().out
        assert compare_rows([*both, "--subset"]) == 0
    other = folder(tmp_path / "c", pgd)
    assert compare_rows([new, other, "--subset"]) == 1


def test_cells_that_cannot_be_told_apart_are_refused(compare_rows: Compare, tmp_path: Path, capsys: Printed) -> None:
    record = make_record(attack("pgd"), 0.1)
    twice = folder(tmp_path / "a", record, record.model_copy(update={"fingerprint": "0" * 16}))
    assert compare_rows([twice, twice]) == 1
    assert "two cells" in capsys.readouterr().err
