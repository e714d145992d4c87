"""Digests of what files hold, with an index by which unchanged files are not read again."""

import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import xxhash

from robustprobe.core.files import cache_folder

CHUNK = 2**20
THREADS = 4
# Entries asked for in one statement: SQLite takes 999 values at least.
TOGETHER = 500
# A file written twice within one tick of the file system's clock keeps its time: a fresh one is read again.
FRESH_NS = 2 * 10**9


class FilePart(NamedTuple):
    """Bytes of a file: all of it, or `size` from `start` on."""

    path: Path
    start: int = 0
    size: int | None = None


class FileState(NamedTuple):
    """What tells that a file was written to: size, inode, and times of content and inode in nanoseconds."""

    size: int
    inode: int
    modified: int
    changed: int


TABLE = """\
CREATE TABLE IF NOT EXISTS content (
    path TEXT, start INTEGER, part INTEGER, size INTEGER, inode INTEGER, modified INTEGER, changed INTEGER, digest TEXT,
    PRIMARY KEY (path, start, part)
) WITHOUT ROWID"""
Key = tuple[str, int, int]


def content_digests(parts: Sequence[FilePart]) -> list[str]:
    """XXH3 (128 bits) of the bytes of every part, in order: from the index where the file is unchanged, else read.

    The index guards against accident, not against an enemy: the hash is fast, not cryptographic.

    Raises:
        OSError: a file cannot be read.
    """
    keys = [_key(part) for part in parts]
    states = {path: _state(path) for path in dict.fromkeys(key[0] for key in keys)}
    known = _known(keys, states)
    missing = {key: part for key, part in zip(keys, parts, strict=True) if key not in known}
    if missing:
        with ThreadPoolExecutor(THREADS) as pool:
            made = dict(zip(missing, pool.map(digest_of, missing.values()), strict=True))
        known |= made
        _remember(made, states)
    return [known[key] for key in keys]


def digest_of(part: FilePart) -> str:
    """XXH3 (128 bits) of the bytes of a part, read now."""
    state = xxhash.xxh3_128()
    left = part.size
    with open(part.path, "rb", buffering=0) as file:
        file.seek(part.start)
        while left is None or left > 0:
            piece = file.read(CHUNK if left is None else min(CHUNK, left))
            if not piece:
                break
            state.update(piece)
            left = None if left is None else left - len(piece)
    return state.hexdigest()


def _key(part: FilePart) -> Key:
    path = os.fspath(part.path)
    # For absolute paths `abspath` would take longer than to ask for the state of the file.
    return path if os.path.isabs(path) else os.path.abspath(path), part.start, -1 if part.size is None else part.size


def _state(path: str) -> FileState:
    found = os.stat(path)
    return FileState(found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)


def _known(keys: Sequence[Key], states: Mapping[str, FileState]) -> dict[Key, str]:
    """Digests in the index of files that are as they were."""
    found: dict[Key, str] = {}
    wanted = set(keys)
    # Without an index, or with one that another program has damaged, every file is read.
    with suppress(sqlite3.Error, OSError), closing(_index()) as index:
        names = list(states)
        for first in range(0, len(names), TOGETHER):
            paths = names[first : first + TOGETHER]
            marks = ",".join("?" * len(paths))
            rows = index.execute(f"SELECT * FROM content WHERE path IN ({marks})", paths)
            for path, start, size, *state, digest in rows:
                if (path, start, size) in wanted and FileState(*state) == states[path]:
                    found[path, start, size] = digest
    return found


def _remember(digests: Mapping[Key, str], states: Mapping[str, FileState]) -> None:
    settled = time.time_ns() - FRESH_NS
    rows = [
        (*key, *states[key[0]], digest)
        for key, digest in digests.items()
        if max(states[key[0]].modified, states[key[0]].changed) < settled
    ]
    with suppress(sqlite3.Error, OSError), closing(_index()) as index, index:
        index.executemany("INSERT OR REPLACE INTO content VALUES (?,?,?,?,?,?,?,?)", rows)


def _index() -> sqlite3.Connection:
    path = cache_folder() / "content.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    index = sqlite3.connect(path, timeout=30)
    try:
        index.execute(TABLE)
    except sqlite3.OperationalError:
        index.close()
        raise
    except sqlite3.DatabaseError:
        index.close()
        path.unlink()
        raise
    return index
