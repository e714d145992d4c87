"""Files are known by what they hold; those that nobody has touched are not read again."""

import os
import time
from pathlib import Path

import pytest
import xxhash

from robustprobe.core import content
from robustprobe.core.content import FilePart, content_digests
from robustprobe.core.files import cache_folder

pytestmark = pytest.mark.unit


class Reads:
    """Counts the files that are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parts: list[FilePart] = []
        self.read = content.digest_of
        monkeypatch.setattr(content, "digest_of", self)

    def __call__(self, part: FilePart) -> str:
        self.parts.append(part)
        return self.read(part)

    def made_by(self, parts: list[FilePart]) -> tuple[list[str], int]:
        before = len(self.parts)
        found = content_digests(parts)
        return found, len(self.parts) - before


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Reads:
    monkeypatch.setenv("ROBUSTPROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "FRESH_NS", 0)
    return Reads(monkeypatch)


def settled(path: Path, text: bytes) -> FilePart:
    path.write_bytes(text)
    time.sleep(0.01)
    return FilePart(path)


def test_unchanged_files_are_read_once_and_any_change_is_seen(reads: Reads, tmp_path: Path) -> None:
    parts = [settled(tmp_path / name, name.encode()) for name in "abc"]
    first, number = reads.made_by(parts)
    assert number == 3
    assert first == [xxhash.xxh3_128_hexdigest(name.encode()) for name in "abc"]
    assert reads.made_by(parts[::-1]) == (first[::-1], 0)
    settled(tmp_path / "b", b"x")
    assert reads.made_by(parts) == ([first[0], xxhash.xxh3_128_hexdigest(b"x"), first[2]], 1)


def test_a_file_whose_size_and_time_are_put_back_is_read_again(reads: Reads, tmp_path: Path) -> None:
    part = settled(tmp_path / "mask", b"before")
    times = os.stat(part.path)
    first, _ = reads.made_by([part])
    settled(part.path, b"after!")
    os.utime(part.path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert reads.made_by([part]) != (first, 0)


def test_a_file_that_replaces_another_is_read_again(reads: Reads, tmp_path: Path) -> None:
    part, other = settled(tmp_path / "mask", b"before"), settled(tmp_path / "other", b"after!")
    first, _ = reads.made_by([part])
    os.replace(other.path, part.path)
    found, number = reads.made_by([part])
    assert number == 1
    assert found != first


def test_a_file_written_just_now_is_not_trusted(reads: Reads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "FRESH_NS", 2 * 10**9)
    part = settled(tmp_path / "mask", b"1")
    assert [reads.made_by([part])[1] for _ in range(2)] == [1, 1]


def test_parts_of_a_file_have_digests_of_their_own(reads: Reads, tmp_path: Path) -> None:
    whole = settled(tmp_path / "shard", bytes(range(100)))
    parts = [FilePart(whole.path, start, 10) for start in (0, 50)]
    found, number = reads.made_by([*parts, whole])
    assert number == 3
    assert found[1] == xxhash.xxh3_128_hexdigest(bytes(range(50, 60)))
    assert reads.made_by([whole, *parts]) == ([found[2], *found[:2]], 0)


@pytest.mark.parametrize("damage", [b"", b"not a database", None])
def test_without_an_index_files_are_read(reads: Reads, tmp_path: Path, damage: bytes | None) -> None:
    part = settled(tmp_path / "mask", b"1")
    first, _ = reads.made_by([part])
    index = cache_folder() / "content.sqlite"
    index.unlink()
    index.mkdir() if damage is None else index.write_bytes(damage)
    assert reads.made_by([part]) == (first, 1)


def test_thousands_of_files_and_odd_names(reads: Reads, tmp_path: Path) -> None:
    names = [f"{number} ü 'quoted' %.png" for number in range(1200)]
    parts = [settled_fast(tmp_path / name) for name in names]
    time.sleep(0.01)
    first, number = reads.made_by(parts)
    assert number == len(set(first)) == 1200
    assert reads.made_by(parts) == (first, 0)


def settled_fast(path: Path) -> FilePart:
    path.write_text(path.name)
    return FilePart(path)


def test_a_missing_file_is_an_error(reads: Reads, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        content_digests([FilePart(tmp_path / "gone")])
