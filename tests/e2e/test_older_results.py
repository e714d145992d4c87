"""Results of the previous version (schema 2): every command reads them and shows today's names."""

import csv
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from robustprobe.results.store import Store
from tests.e2e.program import Answer

pytestmark = pytest.mark.e2e
Call = Callable[..., Answer]
TODAY = {"clean", "surrogate", "pgd", "ensemble", "min-eps"}
FORMER = ("layout", "worst", "smallest")


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A folder that version 0.1.0 wrote before attacks and fields were renamed: 21 cells, three with examples."""
    folder = tmp_path / "older"
    with zipfile.ZipFile(Path(__file__).parent.parent / "data" / "schema2.zip") as packed:
        packed.extractall(folder)
    return folder


def test_records_and_groups_are_read_under_todays_names(older: Path) -> None:
    written = [json.loads(path.read_text()) for path in older.glob("cells/*.json")]
    assert {content["schema_version"] for content in written} == {2}
    store = Store(older)
    records = store.records()
    assert len(records) == len(written) == 21
    assert {record.attack.name for record in records} == TODAY
    targets = {record.target_task for record in records if record.attack.name == "ensemble"}
    assert targets == {"classification", "segmentation", "depth"}
    assert all(store.has(record.fingerprint) for record in records)
    assert {group.attack.name for group in store.groups()} == {"clean", "surrogate", "ensemble"}
    assert all(example.position >= 0 for group in store.groups() for example in group.examples)


@pytest.mark.parametrize("format", ["rich", "md", "csv", "json", "latex"])
def test_the_table_shows_todays_names(call: Call, older: Path, format: str) -> None:
    answer = call("table", older, "--transfer", "--format", format)
    assert (answer.code, answer.err) == (0, "")
    assert all(name in answer.out for name in TODAY)
    assert not any(name in answer.out for name in FORMER)


def test_the_report_shows_todays_names(call: Call, older: Path, tmp_path: Path) -> None:
    answer = call("report", older, "-o", tmp_path / "page.html")
    assert (answer.code, answer.err) == (0, "")
    page = (tmp_path / "page.html").read_text()
    assert all(f"{name} 8/255" in page for name in TODAY - {"clean"})
    assert not any(f"{name} 8/255" in page for name in FORMER)


def test_a_comparison_with_itself_finds_no_difference(call: Call, older: Path) -> None:
    answer = call("compare", older, older, "--format", "csv")
    assert (answer.code, answer.err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(answer.out)))
    assert {row["attack"] for row in rows} == TODAY
    assert {float(row["difference"]) for row in rows} == {0.0}


def test_a_merge_copies_every_cell(call: Call, older: Path, tmp_path: Path) -> None:
    answer = call("merge", older, older, "-o", tmp_path / "merged")
    assert (answer.code, answer.err) == (0, "")
    assert "21 cells and 3 groups" in answer.out
    assert {record.attack.name for record in Store(tmp_path / "merged").records()} == TODAY
    assert call("merge", older, "-o", tmp_path / "merged").out.startswith("0 cells")
