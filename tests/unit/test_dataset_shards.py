"""WebDataset shards: every image once, by an id that stays, read in place; nothing strange is taken for one."""

import bz2
import gzip
import io
import lzma
import shutil
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from robustprobe import UserError, load_dataset
from robustprobe.datasets._shards import expanded, members
from robustprobe.datasets.webdataset import items_of
from tests.folders import encoded, noise, photo, write_shards

pytestmark = pytest.mark.unit


def test_a_folder_of_splits(tmp_path: Path) -> None:
    write_shards(tmp_path, {"train": 12, "val": 4, "test": 6})
    data = load_dataset(f"webdataset:{tmp_path}")
    assert data.kept_ids == [f"test-{i // 4:04d}/{i:06d}" for i in range(6)]
    for i, sample in enumerate(data):
        assert int(sample.targets["classification"]) == i % 2
    whole = load_dataset(f"webdataset:{tmp_path}", size=20)
    stored = (np.asarray(whole[0].image) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    assert np.array_equal(stored, photo(0))
    assert len(load_dataset(f"webdataset:{tmp_path}", split="train")) == 12


def test_a_pattern_with_the_split(tmp_path: Path) -> None:
    write_shards(tmp_path, {"train": 12, "test": 6})
    name = f"webdataset:{tmp_path}/{{split}}-{{0000..0001}}.tar"
    assert load_dataset(name).kept_ids == load_dataset(f"webdataset:{tmp_path}").kept_ids
    train, val = (set(load_dataset(name, split=split).kept_ids) for split in ("train", "val"))
    assert len(train) + len(val) == 8
    assert not train & val


def test_one_set_is_divided_the_same_way_whatever_the_order(tmp_path: Path) -> None:
    write_shards(tmp_path, {"all": 40})
    parts = [
        load_dataset(f"webdataset:{tmp_path}/all-{{0000..0009}}.tar", split=s).kept_ids
        for s in ("train", "val", "test")
    ]
    assert [len(part) for part in parts] == [29, 3, 8]
    assert len({i for part in parts for i in part}) == 40


def test_digest_does_not_say_where_the_shards_lie(tmp_path: Path) -> None:
    digests = set()
    for place in ("here", "there"):
        write_shards(tmp_path / place, {"all": 8})
        digests.add(load_dataset(f"webdataset:{tmp_path / place}/all-{{0000..0001}}.tar").digest())
    assert len(digests) == 1


def test_ids_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from robustprobe.cli.data import ids

    write_shards(tmp_path, {"test": 6})
    ids(f"webdataset:{tmp_path}/test-{{0000..0001}}.tar", split="test")
    assert set(capsys.readouterr().out.split()) <= {f"test-{i // 4:04d}/{i:06d}" for i in range(6)}


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{8..11}.tar", ["a-8.tar", "a-9.tar", "a-10.tar", "a-11.tar"]),
        ("{00..01}/{0..1}", ["00/0", "00/1", "01/0", "01/1"]),
        ("a-{x,y}.tar", ["a-{x,y}.tar"]),
        ("a-{2..1}.tar", []),
    ],
)
def test_ranges(pattern: str, names: list[str]) -> None:
    assert expanded(pattern) == names


def test_endless_ranges_are_refused() -> None:
    with pytest.raises(UserError, match="more than 100,000 shards"):
        expanded("a-{0..999999999}.tar")


def test_listing_many_members_holds_none_of_them(tmp_path: Path) -> None:
    """tarfile itself keeps a kilobyte of each."""
    content = b"x"
    with tarfile.open(tmp_path / "many.tar", "w") as tar:
        for i in range(4000):
            member = tarfile.TarInfo(f"{i:06d}.cls")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    tracemalloc.start()
    assert sum(1 for _ in members(tmp_path / "many.tar")) == 4000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300_000


Member = tuple[str, bytes]


def shard(path: Path, *files: Member, extra: tarfile.TarInfo | None = None, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        if extra:
            tar.addfile(extra)
    return path


IMAGE = encoded(noise(0, 20, 20, 3))
A: tuple[Member, Member] = ("a.png", IMAGE), ("a.cls", b"1")


def special(kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo("b.png")
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: shard(p, ("a.png", IMAGE)), r"holds a without \.cls"),
        (lambda p: shard(p, ("a.cls", b"1")), "holds a without an image"),
        (lambda p: shard(p, ("a.png", IMAGE), ("a.jpg", IMAGE), ("a.cls", b"1")), "holds a twice"),
        (lambda p: shard(p, *A, ("b.cls", b"1"), ("b.png", IMAGE), ("a.txt", b"")), "two places"),
        (lambda p: shard(p, ("a.png", IMAGE), ("a.cls", b"dog")), "expected the index of a class"),
        (lambda p: shard(p, ("a.png", IMAGE), ("a.cls", b"1" * 10**6)), "expected the index of a class"),
        (lambda p: shard(p, *A, extra=special(tarfile.SYMTYPE)), "a link, a device"),
        (lambda p: shard(p, *A, extra=special(tarfile.LNKTYPE)), "a link, a device"),
        (lambda p: shard(p, *A, extra=special(tarfile.CHRTYPE)), "a link, a device"),
        (lambda p: shard(p, *A, mode="w:gz"), "cannot be read as an uncompressed tar"),
        (lambda p: p.write_bytes(b""), "cannot be read as an uncompressed tar"),
        (lambda p: None, r"no .*test-0000\.tar; expected a shard for every number"),
    ],
)  # fmt: skip
def test_strange_shards_are_refused(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / "test-0000.tar")
    with pytest.raises(UserError, match=message):
        list(items_of(tmp_path / "test-0000.tar", "x"))


def test_a_shard_that_is_cut_off_or_damaged_does_not_end_early(tmp_path: Path) -> None:
    write_shards(tmp_path, {"test": 4})
    path = tmp_path / "test-0000.tar"
    whole, starts = path.read_bytes(), [member.start - 512 for member in members(path)]
    for content in (
        whole[: starts[4]],
        whole[: starts[4] + 100],
        whole[: starts[4] + 5] + b"?" + whole[starts[4] + 6 :],
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"truncated or damaged after|cannot be read"):
            load_dataset(f"webdataset:{tmp_path}")


def test_a_missing_shard_and_missing_classes_are_said(tmp_path: Path) -> None:
    write_shards(tmp_path, {"test": 6})
    with pytest.raises(UserError, match=r"no .*test-0002\.tar"):
        load_dataset(f"webdataset:{tmp_path}/test-{{0000..0002}}.tar")
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"no .*classes\.txt; expected"):
        _ = load_dataset(f"webdataset:{tmp_path}").labels


@pytest.mark.parametrize("packed", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_shards_are_named_so(tmp_path: Path, packed: Callable[[bytes], bytes]) -> None:
    write_shards(tmp_path, {"train": 2, "test": 2})
    shard = tmp_path / "test-0000.tar"
    shard.write_bytes(packed(shard.read_bytes()))
    with pytest.raises(
        UserError, match=r"test-0000\.tar cannot be read .*it is compressed \((gzip|bzip2|xz)\); uncompress"
    ):
        load_dataset(f"webdataset:{tmp_path}")


def test_shards_of_other_names_are_told(tmp_path: Path) -> None:
    write_shards(tmp_path, {"train": 2})
    (tmp_path / "train-0000.tar").rename(tmp_path / "train-0000.tar.gz")
    with pytest.raises(UserError, match=r"no shards of .*Found there: train-0000\.tar\.gz\.$"):
        load_dataset(f"webdataset:{tmp_path}")


def test_members_of_a_sample_that_lie_apart_are_told_to_lie_together(tmp_path: Path) -> None:
    write_shards(tmp_path, {"train": 2})
    content = {f"{i}.png": encoded(photo(i)) for i in range(2)} | {f"{i}.cls": b"1" for i in range(2)}
    with tarfile.open(tmp_path / "test-0000.tar", "w") as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    with pytest.raises(UserError, match=r"holds 0 without \.cls beside it; expected both, one after the other"):
        load_dataset(f"webdataset:{tmp_path}")


def link(first: Path, second: Path) -> None:
    second.unlink()
    second.symlink_to(first.name)


def hard_link(first: Path, second: Path) -> None:
    second.unlink()
    second.hardlink_to(first)


@pytest.mark.parametrize("repeat", [link, hard_link, shutil.copy])
def test_a_shard_under_two_names_is_refused(tmp_path: Path, repeat: Callable[[Path, Path], object]) -> None:
    write_shards(tmp_path, {"train": 12, "test": 12})
    repeat(tmp_path / "train-0001.tar", tmp_path / "train-0002.tar")
    assert len(load_dataset(f"webdataset:{tmp_path}")) == 12, "test has none twice"
    with pytest.raises(UserError, match=r"train-0002\.tar holds the same samples as .*train-0001\.tar; name each"):
        load_dataset(f"webdataset:{tmp_path}", split="train")


def test_shards_of_one_image_may_hold_the_same_one(tmp_path: Path) -> None:
    write_shards(tmp_path, {"train": 4, "test": 1})
    shutil.copy(tmp_path / "test-0000.tar", tmp_path / "test-0001.tar")
    assert len(load_dataset(f"webdataset:{tmp_path}")) == 2


@pytest.mark.parametrize("label", ["9" * 19, str(2**31), "1.0", "-1"])
def test_a_label_that_can_be_no_index_is_refused(tmp_path: Path, label: str) -> None:
    path = tmp_path / "train-0.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in (("k.png", encoded(photo(0))), ("k.cls", label.encode())):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(UserError, match=rf"holds k\.cls with b'{label}'; expected the index of a class"):
        list(items_of(path, "train-0"))
