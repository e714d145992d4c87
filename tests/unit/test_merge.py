"""Merging folders: what is copied, what is refused, and that nothing is ever overwritten."""

from pathlib import Path

import numpy as np
import pytest

from robustprobe.core.errors import UserError
from robustprobe.results.merge import MergeResult, merge
from robustprobe.results.records import Interval, Record
from robustprobe.results.store import Store
from robustprobe.results.union import differing_fields
from tests.unit.test_report_page import add_group
from tests.unit.test_report_tables import attack, make_record

pytestmark = pytest.mark.unit


def put(folder: Path, *records: Record, examples: bool = False) -> Store:
    """A folder of records whose rows they vouch for."""
    store = Store(folder).prepare()
    for record in records:
        digest = store.write_rows(record.fingerprint, {"id": ["a", "b"], "correct": np.array([True, False])})
        store.write_record(record.model_copy(update={"rows_sha256": digest}))
        if examples:
            add_group(store, record)
    return store


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_everything_is_copied_byte_by_byte(tmp_path: Path) -> None:
    first = put(tmp_path / "a", make_record(attack("clean"), 0.9), examples=True)
    second = put(tmp_path / "b", make_record(attack("pgd"), 0.1), examples=True)
    done = merge([first.folder, second.folder], tmp_path / "c")
    assert done == MergeResult(cells=2, groups=2, known=0)
    assert contents(tmp_path / "c") == contents(first.folder) | contents(second.folder)
    merged = Store(tmp_path / "c")
    assert all(merged.has(record.fingerprint) for record in merged.records())


def test_the_same_again_changes_nothing(tmp_path: Path) -> None:
    put(tmp_path / "a", make_record(attack("clean"), 0.9), examples=True)
    merge([tmp_path / "a"], tmp_path / "c")
    before = contents(tmp_path / "c")
    assert merge([tmp_path / "a"], tmp_path / "c") == MergeResult(0, 0, 1)
    assert contents(tmp_path / "c") == before


def test_the_same_cell_measured_elsewhere_is_no_conflict(tmp_path: Path) -> None:
    record = make_record(attack("clean"), 0.9)
    elsewhere = record.provenance.model_copy(update={"hardware": "another machine", "started": "2027-01-01"})
    put(tmp_path / "a", record)
    put(tmp_path / "b", record.model_copy(update={"provenance": elsewhere, "suite": "mine"}))
    assert merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c").cells == 1
    assert Store(tmp_path / "c").records()[0].provenance.hardware == "a machine"


def test_a_conflict_names_cell_field_and_values_and_writes_nothing(tmp_path: Path) -> None:
    record = make_record(attack("pgd"), 0.2)
    other = Interval(value=0.3, ci_low=0.2, ci_high=0.4)
    put(tmp_path / "a", record)
    put(tmp_path / "b", record.model_copy(update={"metrics": {"top-1": other}}))
    with pytest.raises(UserError) as error:
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    for words in ("classification, pgd 8/255", "metrics differ", "(top-1 0.2 and top-1 0.3)", "none is overwritten"):
        assert words in str(error.value)
    assert not (tmp_path / "c").exists()


def test_what_the_target_holds_counts_too(tmp_path: Path) -> None:
    record = make_record(attack("pgd"), 0.2)
    put(tmp_path / "a", record.model_copy(update={"n": 7}))
    put(tmp_path / "c", record)
    before = contents(tmp_path / "c")
    with pytest.raises(UserError, match=r"n differ .*\(200 and 7\)"):
        merge([tmp_path / "a"], tmp_path / "c")
    assert contents(tmp_path / "c") == before


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damaged_rows_are_refused(tmp_path: Path, damage: str) -> None:
    record = make_record(attack("pgd"), 0.2)
    rows = put(tmp_path / "a", record).folder / "rows" / f"{record.fingerprint}.parquet"
    rows.write_bytes(b"else") if damage == "changed" else rows.unlink()
    with pytest.raises(UserError, match=r"1 cells have files that are missing or do not have"):
        merge([tmp_path / "a"], tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_nothing_to_merge_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results in"):
        merge([tmp_path / "nowhere"], tmp_path / "c")
    Store(tmp_path / "empty").prepare()
    with pytest.raises(UserError, match="no finished cells in"):
        merge([tmp_path / "empty"], tmp_path / "c")


def test_a_number_that_is_none_equals_itself() -> None:
    nothing = Interval(value=float("nan"), ci_low=float("nan"), ci_high=float("nan"))
    first, second = (make_record(attack("clean"), 0.5, metrics={"top-1": nothing}) for _ in range(2))
    assert differing_fields(first, second) == []
