"""Datasets of the hub's library, streamed from folders: listed without images, read once, in any order."""

from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from robustprobe import Dataset, UserError, load_dataset
from robustprobe.datasets import batches
from robustprobe.datasets._stream import Spool, StreamSource
from tests.folders import write_classes, write_parquet

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    for split, count in (("train", 60), ("test", 40)):
        write_parquet(folder, split, count, "img", "label", 10)
    return folder


def asked(patch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Every time images are streamed: the first row asked for, and the rows that came."""
    calls: list[tuple[int, int]] = []
    real = StreamSource.images

    def images(self: StreamSource, split: str, column: str, first: int) -> Iterator[bytes]:
        calls.append((first, 0))
        for content in real(self, split, column, first):
            calls[-1] = (first, calls[-1][1] + 1)
            yield content

    patch.setattr(StreamSource, "images", images)
    return calls


def test_every_row_has_an_id_that_stays_and_the_image_of_that_row(table: Path) -> None:
    data = load_dataset(f"hfstream:{table}", size=32)
    assert data.kept_ids == [f"test-{row:08d}" for row in range(40)]
    known = load_dataset("cifar10", root=linked(table))
    for mine, theirs in zip(data, known, strict=True):
        assert torch.equal(mine.image, theirs.image)
        assert torch.equal(mine.targets["classification"], theirs.targets["classification"])


def linked(table: Path) -> Path:
    """The same files as the folder of CIFAR-10."""
    root = table.parent / f"{table.name}-root"
    root.mkdir(exist_ok=True)
    if not (root / "cifar10").exists():
        (root / "cifar10").symlink_to(table)
    return root


def test_the_stream_is_read_once_and_no_further_than_needed(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = asked(monkeypatch)
    data = load_dataset(f"hfstream:{table}", limit=6)
    assert calls == []
    first, last = data.indices[0], data.indices[-1]
    for _ in range(3):
        assert [i for batch in batches(data, 4) for i in batch.ids] == data.kept_ids
    for place in (5, 0, 3):
        assert data[place].id == data.kept_ids[place]
    assert calls == [(first, last - first + 1)]


def test_heads_may_read_in_any_order(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = asked(monkeypatch)
    data = load_dataset(f"hfstream:{table}", split="train", size=32)
    # Several threads ask in an order of their own, and how often the stream starts again follows from it.
    monkeypatch.setattr(type(data), "reading_threads", 1)
    order = np.random.default_rng(0).permutation(len(data)).tolist()
    images = {i: image for batch in batches(data, 8, order) for i, image in zip(batch.ids, batch.images, strict=True)}
    again = load_dataset(f"hfstream:{table}", split="train", size=32)
    assert all(torch.equal(images[sample.id], sample.image) for sample in again)
    assert len(calls) <= 8


def test_what_was_not_wanted_then_is_streamed_again(table: Path) -> None:
    data = load_dataset(f"hfstream:{table}", limit=3, size=32)
    kept = {sample.id: sample.image for sample in data}
    data.select(None)
    assert {s.id: s.image for s in data}.keys() >= kept.keys()
    assert all(torch.equal(kept[s.id], s.image) for s in data if s.id in kept)


def test_splits_share_nothing_and_val_is_held_out(table: Path) -> None:
    train, val = (set(load_dataset(f"hfstream:{table}", split=split).kept_ids) for split in ("train", "val"))
    assert (len(train), len(val)) == (54, 6)
    assert not train & val


def test_a_folder_of_photographs_has_its_classes(tmp_path: Path) -> None:
    write_classes(tmp_path, {"train": 6, "validation": 3})
    data = load_dataset(f"hfstream:{tmp_path}")
    assert data.labels["classification"].classes == ("cat", "dog")
    assert data.kept_ids[0] == "validation-00000000"
    folder = load_dataset(f"imagefolder:{renamed(tmp_path)}")
    assert [int(s.targets["classification"]) for s in data] == [0, 0, 0, 1, 1, 1]
    assert all(torch.equal(a.image, b.image) for a, b in zip(data, folder, strict=True))


def renamed(folder: Path) -> Path:
    """The folder with `validation` called as our own."""
    other = folder.parent / f"{folder.name}-own"
    other.mkdir()
    (other / "train").symlink_to(folder / "train")
    (other / "test").symlink_to(folder / "validation")
    return other


def test_the_digest_follows_the_classes_and_not_the_place(table: Path, tmp_path: Path) -> None:
    def digest(folder: Path, classes: int) -> str:
        for split in ("train", "test"):
            write_parquet(folder, split, 8, "img", "label", classes)
        return load_dataset(f"hfstream:{folder}").digest()

    assert digest(tmp_path / "a", 10) == digest(tmp_path / "b", 10)
    assert digest(tmp_path / "c", 4) != digest(tmp_path / "d", 5)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("img", "caption"), r"has the columns img, caption; expected an image \(.*\) and a class"),
        (("thing", "label"), "has the columns thing, label"),
    ],
)
def test_other_columns_are_named(tmp_path: Path, columns: tuple[str, str], message: str) -> None:
    write_parquet(tmp_path, "test", 4, *columns, 2)
    with pytest.raises(UserError, match=message):
        load_dataset(f"hfstream:{tmp_path}")


def test_what_is_no_dataset_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"hfstream:.* cannot be read"):
        load_dataset(f"hfstream:{tmp_path}")
    write_parquet(tmp_path, "extra", 4, "img", "label", 2)
    with pytest.raises(UserError, match="has no split for val"):
        load_dataset(f"hfstream:{tmp_path}")
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(UserError, match="update it to 4"):
        load_dataset(f"hfstream:{tmp_path}")


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    write_classes(tmp_path, {"test": 2})
    (tmp_path / "test" / "dog" / "dog_test_0.JPEG").write_bytes(b"no picture")
    with pytest.raises(UserError, match="image test-00000002 cannot be read"):
        list(load_dataset(f"hfstream:{tmp_path}"))


def test_a_stream_that_ends_early_is_said() -> None:
    spool = Spool(lambda first: iter([b"a", b"b"][first:]))
    assert spool.get(1, lambda row: True) == b"b"
    with pytest.raises(UserError, match="the stream has 2 rows, and row 5 was listed"):
        spool.get(5, lambda row: True)


def test_it_is_a_dataset_like_any_other(table: Path) -> None:
    data = load_dataset(f"hfstream:{table}", limit=10)
    assert isinstance(data, Dataset)
    assert sorted(int(s.targets["classification"]) for s in data) == list(range(10))
