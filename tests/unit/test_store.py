"""Results on disk are whole, found again, and never half there."""

import errno
import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robustprobe import UserError
from robustprobe.core import files as written_files
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.files import write_whole
from robustprobe.core.spec import Display
from robustprobe.results.example_images import Example, ExampleChoice, Group
from robustprobe.results.records import HeadFacts, Interval, Provenance, Record
from robustprobe.results.store import Store
from tests.unit.test_report_tables import attack, make_record

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
        target_task="",
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


def test_every_flipped_bit_of_a_record_is_found(store: Store) -> None:
    """Most leave it readable: a digit of a number, a letter of a name."""
    write(store)
    path = store.folder / "cells" / f"{NAME}.json"
    whole = path.read_bytes()
    for position in range(0, len(whole), 3):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(bytes(flipped))
        assert not store.has(NAME), flipped[position - 20 : position + 20]
        with pytest.raises(UserError, match=rf"cells/{NAME}\.json cannot be read: .*run the suite it belongs to again"):
            store.records()
    path.write_bytes(whole)
    assert store.has(NAME)


@pytest.mark.parametrize("name", ["C:\\bin\\u001b", "a\nb\t", "ä ✓ \\f"])
def test_names_with_backslashes_are_no_control_characters(store: Store, name: str) -> None:
    written = record(store.write_rows(NAME, COLUMNS)).model_copy(update={"encoder": name})
    store.write_record(written)
    assert store.records() == [written]


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_truncated_record_is_found(store: Store, kept: float) -> None:
    write(store)
    path = store.folder / "cells" / f"{NAME}.json"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    assert not store.has(NAME)


def test_every_flipped_byte_of_rows_is_found(store: Store) -> None:
    written = write(store)
    path = store.folder / "rows" / f"{NAME}.parquet"
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        assert not store.has(NAME)
        assert store.damaged(written) == path


def test_rows_that_cannot_be_read_are_named(store: Store) -> None:
    (store.folder / "rows" / f"{NAME}.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=rf"{NAME}\.parquet cannot be read: .*Run its suite again"):
        store.rows(NAME)


def test_a_record_under_another_name_is_not_that_cell(store: Store) -> None:
    write(store)
    for room, ending in (("cells", "json"), ("rows", "parquet")):
        (store.folder / room / f"{NAME}.{ending}").rename(store.folder / room / f"other.{ending}")
    assert not store.has("other")


def test_records_of_older_versions_have_no_checksum_and_are_read(store: Store) -> None:
    written = write(store)
    path = store.folder / "cells" / f"{NAME}.json"
    old = json.loads(path.read_text())
    assert len(old.pop("content_sha256")) == 64
    path.write_text(json.dumps(old, indent=1))
    assert store.has(NAME)
    assert store.records() == [written]


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_a_damaged_example_image_makes_its_cells_count_as_missing(store: Store, damage: str) -> None:
    written = write(store)
    assert store.has(NAME)
    pixels = np.zeros((4, 5, 3), np.uint8)
    store.write_group(
        group().model_copy(
            update={"group": written.group, "digests": {"0.png": store.write_image(written.group, "0.png", pixels)}}
        )
    )
    image = store.image(written.group, "0.png")
    whole = image.read_bytes()
    assert Store(store.folder).has(NAME)
    image.write_bytes(whole[:-20] + b"x" + whole[-19:]) if damage == "flipped" else image.unlink()
    assert not Store(store.folder).has(NAME)
    assert Store(store.folder).damaged(written) == image
    store.write_image(written.group, "0.png", pixels)
    store.image(written.group, "group.json").write_text("{}")
    assert Store(store.folder).damaged(written) == store.image(written.group, "group.json")


def test_many_files_are_whole_or_not_there_wherever_it_stops(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written_files, "TOGETHER", 4)
    replace, calls = os.replace, []

    def fills(source: str, target: Path) -> None:
        calls.append(target)
        if len(calls) == 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fills)
    with pytest.raises(OSError, match="No space left"):
        written_files.write_all((store.folder / "rows" / f"{i:02d}", partial(bytes, [i] * 9)) for i in range(12))
    assert files(store) == [f"rows/{i:02d}" for i in range(6)]
    assert all((store.folder / "rows" / f"{i:02d}").read_bytes() == bytes([i]) * 9 for i in range(6))


WRITER = """
import sys, time
from pathlib import Path
from robustprobe.core import files
files.os.replace = lambda *paths: (print("about to rename", flush=True), time.sleep(60))
files.write_whole(Path(sys.argv[1]), b"content")
"""


def test_leftovers_of_a_killed_writer_go_and_those_of_a_living_one_stay(store: Store) -> None:
    target = store.folder / "rows" / "x.parquet"
    with subprocess.Popen([sys.executable, "-c", WRITER, target], stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        writer.stdout.readline()
        store.prepare()
        (leftover,) = files(store)
        assert leftover.startswith("rows/.x.parquet.")
        writer.kill()
    assert files(store) == [leftover]
    assert store.prepare().records() == []
    assert files(store) == []


def test_a_writer_whose_temporary_file_was_swept_writes_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a machine that sees no locks of others would do."""
    replace, calls = os.replace, []

    def swept_once(source: str, target: Path) -> None:
        calls.append(source)
        if len(calls) == 1:
            Path(source).unlink()
        replace(source, target)

    monkeypatch.setattr(os, "replace", swept_once)
    written = write(store)
    assert store.records() == [written]
    assert files(store) == [f"cells/{NAME}.json", f"rows/{NAME}.parquet"]


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"\xff\xfe", b'{"fingerprint": "x", "new": 1}'])
def test_unreadable_record_is_an_error_that_names_the_file(store: Store, content: bytes) -> None:
    (store.folder / "cells" / "broken.json").write_bytes(content)
    with pytest.raises(UserError, match=r"(?s)cells/broken\.json cannot be read: .*Delete it.*--out"):
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
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match=r"other\.parquet cannot be written: No space left .* Free some space .* same"):
        store.write_rows("other", COLUMNS)
    with pytest.raises(UserError, match=r"cells are whole and safe"):
        store.write_record(written.model_copy(update={"n": 3}))
    assert files(store) == before
    assert store.records() == [written]


def test_a_disk_that_refuses_is_not_called_full(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: str, target: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match=r"Read-only file system.* give another with --out; then the same command"):
        store.write_rows("other", COLUMNS)


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
        target_task="",
        classes={"classification": ["a", "b"]},
        displays={"classification": Display(kind="classes")},
        examples=[Example(id="a", position=0, predictions={"classification": [["a", 0.9]]}, truth={})],
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


def test_older_records_say_what_their_attack_could_see() -> None:
    known = {"clean": "nothing", "noise": "nothing", "embed": "encoder", "my.py:Blur": "encoder", "pgd": "task"}
    for name, access in known.items():
        content = make_record(attack(name), 0.5, target_task="classification" if access == "task" else "").model_dump()
        del content["access"]
        assert Record.model_validate({**content, "schema_version": 2}).access == access
    assert ExampleChoice.model_validate({"kind": "most harmed"}).kind == "most damaged"
