"""Results on disk are whole, found again, and never half there."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robustprobe import UserError
from robustprobe.spec import AttackSpec
from robustprobe.store import Example, Group, HeadFacts, Interval, Provenance, Record, Store, write_whole

pytestmark = pytest.mark.unit

NAME = "0123456789abcdef"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results").prepare()


def record(rows_sha256: str, value: float = 0.5) -> Record:
    return Record(
        fingerprint=NAME,
        group="fedcba",
        suite="test",
        encoder="file:tiny",
        encoder_digest="ab",
        encoder_licence="unknown",
        dataset="scenes",
        dataset_digest="cd",
        split="test",
        image_size=(16, 24),
        image_ids_digest="ef",
        task="depth",
        made_for="",
        attack=AttackSpec(name="embed", eps=1 / 3),
        precision="fp32",
        metric="RMSE",
        unit="m",
        higher_is_better=False,
        n=2,
        metrics={"RMSE": Interval(value=value, ci_low=value, ci_high=value), "delta-1": interval(0.9)},
        metrics_8bit={"RMSE": interval(0.5)},
        largest_perturbation=1 / 3,
        head=HeadFacts(fingerprint="12", recipe={"epochs": 1}, learning_rate=1e-3, held_out_score=0.4, train_images=8),
        rows_sha256=rows_sha256,
        provenance=Provenance(
            command="", started="", seconds=1.0, versions={"torch": "2"}, git="", hardware="", device="cpu"
        ),
    )


def interval(value: float) -> Interval:
    return Interval(value=value, ci_low=value - 0.1, ci_high=value + 0.1)


COLUMNS: dict[str, Any] = {
    "id": ["a", "b"],
    "rmse": np.array([0.1, math.nan]),
    "intersection": np.array([[1, 2, 3], [4, 5, 6]]),
    "correct": np.array([True, False]),
}


def write(store: Store) -> Record:
    written = record(store.write_rows(NAME, COLUMNS))
    store.write_record(written)
    return written


def files(store: Store) -> list[str]:
    return sorted(p.relative_to(store.folder).as_posix() for p in store.folder.rglob("*") if p.is_file())


def test_record_and_rows_come_back_as_they_were(store: Store) -> None:
    written = write(store)
    assert store.has(NAME)
    assert store.records() == [written]
    assert store.records()[0].headline == interval(0.5).model_copy(update={"ci_low": 0.5, "ci_high": 0.5})
    rows = store.rows(NAME).to_pydict()
    assert rows["id"] == ["a", "b"]
    assert rows["intersection"] == [[1, 2, 3], [4, 5, 6]]
    assert rows["correct"] == [True, False]
    assert rows["rmse"][0] == 0.1
    assert math.isnan(rows["rmse"][1])
    assert files(store) == [f"cells/{NAME}.json", f"rows/{NAME}.parquet"]


def test_record_without_a_number_comes_back(store: Store) -> None:
    """A dataset none of whose images has a valid pixel has no RMSE."""
    store.write_record(record(store.write_rows(NAME, COLUMNS), value=math.nan))
    assert store.has(NAME)
    assert math.isnan(store.records()[0].headline.value)


def test_same_rows_give_the_same_file(store: Store) -> None:
    assert store.write_rows("a", COLUMNS) == store.write_rows("b", COLUMNS)
    assert store.write_rows("c", {**COLUMNS, "id": ["a", "c"]}) != store.write_rows("a", COLUMNS)


def test_record_alone_is_not_enough(store: Store) -> None:
    assert not store.has(NAME)
    write(store)
    (store.folder / "rows" / f"{NAME}.parquet").unlink()
    assert not store.has(NAME)


def test_rows_alone_are_not_enough(store: Store) -> None:
    store.write_rows(NAME, COLUMNS)
    assert not store.has(NAME)


@pytest.mark.parametrize("file", [f"rows/{NAME}.parquet", f"cells/{NAME}.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe"])
def test_changed_files_do_not_count(store: Store, file: str, content: bytes) -> None:
    write(store)
    (store.folder / file).write_bytes(content)
    assert not store.has(NAME)
    write(store)
    assert store.has(NAME)


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"\xff\xfe", b'{"fingerprint": "x", "new": 1}'])
def test_unreadable_record_is_an_error_that_names_the_file(store: Store, content: bytes) -> None:
    (store.folder / "cells" / "broken.json").write_bytes(content)
    with pytest.raises(UserError, match=r"(?s)cells/broken\.json cannot be read: .*Delete it"):
        store.records()


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no results in .*nothing"):
        Store(tmp_path / "nothing").records()


def test_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"results cannot be written to .*file.*--out"):
        Store(tmp_path / "file" / "below").prepare()


def test_failing_write_leaves_nothing_new_and_the_old_as_it_was(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write(store)
    before = files(store)

    def fail(source: str, target: Path) -> None:
        assert Path(source).read_bytes()
        raise OSError("disk is full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk is full"):
        store.write_rows("other", COLUMNS)
    with pytest.raises(OSError, match="disk is full"):
        store.write_record(written.model_copy(update={"n": 3}))
    assert files(store) == before
    assert store.records() == [written]


def test_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "file", b"content")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "pixels",
    [
        np.arange(60, dtype=np.uint8).reshape(4, 5, 3),
        np.arange(20, dtype=np.uint8).reshape(4, 5),
        np.array([[0, 255, 256], [10_000, 65_534, 65_535]], dtype=np.uint16),
    ],
)
def test_images_come_back_without_loss(store: Store, pixels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> None:
    store.write_image("group", "0.png", pixels)
    with Image.open(store.image("group", "0.png")) as image:
        assert np.array_equal(np.array(image), pixels)
    assert files(store) == ["examples/group/0.png"]


def group() -> Group:
    return Group(
        group="g",
        encoder="file:tiny",
        dataset="scenes",
        attack=AttackSpec(name="clean", eps=0),
        made_for="",
        classes={"classification": ["a", "b"]},
        max_depth=10.0,
        examples=[Example(id="a", place=0, predictions={"classification": [["a", 0.9]]}, truth={})],
    )


def test_groups_come_back(store: Store) -> None:
    assert store.groups() == []
    store.write_group(group())
    assert store.groups() == [group()]


def test_unreadable_group_is_an_error_that_names_the_file(store: Store) -> None:
    store.write_group(group())
    store.image("g", "group.json").write_text("{}")
    with pytest.raises(UserError, match=r"group\.json"):
        store.groups()
