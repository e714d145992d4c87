"""A full disk, a read-only one, two runs at once, other clocks: nothing is lost, and the same command finishes."""

import errno
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from robustprobe.probing import cache as _cache
from robustprobe.results import provenance
from robustprobe.results.records import Record
from robustprobe.results.store import Store
from tests.e2e.program import Answer, start

pytestmark = pytest.mark.e2e
Call = Callable[..., Answer]


def told(folder: Path) -> dict[str, Any]:
    """What a store says, but for when and where it was measured."""
    found: dict[str, Any] = {}
    for record in Store(folder).records():
        assert Store(folder).has(record.fingerprint)
        kept = record.model_dump(mode="json", exclude={"provenance"})
        found[record.fingerprint] = json.dumps(kept), pq.read_table(folder / "rows" / f"{record.fingerprint}.parquet")
    return found | {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.glob("examples/*/*.png")}


def stored(folder: Path) -> list[Record]:
    """The records of a folder; a run that stored none leaves no folder of them."""
    return Store(folder).records() if (folder / "cells").exists() else []


def temporary(folder: Path) -> list[Path]:
    return [p for p in folder.rglob(".*") if p.is_file()]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB of memory."""
    position = tmp_path / "small"
    position.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", position], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("this user may not mount")
    yield position
    subprocess.run(["umount", position], check=True)


def assert_stopped_with_one_line(answer: Answer, store: Path) -> None:
    assert answer.code == 1
    assert "Traceback" not in answer.err + answer.out
    lines = [line for line in answer.err.splitlines() if line.startswith("robustprobe:")]
    (line,) = [line for line in lines if "running the code of" not in line]
    for words in ("cannot be written", "Finished cells are whole and safe", "same command continues"):
        assert words in line, line
    assert all(Store(store).has(record.fingerprint) for record in stored(store))
    assert temporary(store) == []


def test_a_full_disk(call: Call, suite_file: Path, finished: Path, small_disk: Path) -> None:
    out, filler = small_disk / "out", small_disk / "filler"
    filler.write_bytes(bytes(2**21 - 100 * 2**10))
    answer = call("run", suite_file, "--out", out)
    assert_stopped_with_one_line(answer, out)
    assert "No space left" in answer.err
    assert len(stored(out)) < len(stored(finished))
    filler.unlink()
    assert call("run", suite_file, "--out", out).code == 0
    assert told(out) == told(finished)


def test_a_disk_that_fills_anywhere(
    call: Call, suite_file: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a full disk, where nothing may be mounted: each run gets one file further than it could write before."""
    out, real = tmp_path / "out", os.replace
    for room in (3, 40):
        written: list[Any] = []

        def fills(source: Any, target: Any, room: int = room, written: list[Any] = written) -> None:
            if out in Path(target).parents and len(written) == room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written.append(target)
            real(source, target)

        monkeypatch.setattr(os, "replace", fills)
        assert_stopped_with_one_line(call("run", suite_file, "--out", out), out)
    monkeypatch.setattr(os, "replace", real)
    assert call("run", suite_file, "--out", out).code == 0
    assert told(out) == told(finished)


def test_a_full_disk_below_the_head_cache(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads are not kept then; nothing else changes."""
    import torch

    monkeypatch.setenv("ROBUSTPROBE_CACHE", str(small_disk))
    _cache.save_weights("large", {"weight": torch.zeros(2**20)}, {})
    _cache.save_progress("large", _cache.FitProgress(0, 0, [{"weight": torch.zeros(2**20)}]))
    assert [p for p in small_disk.rglob("*") if p.is_file()] == []


def test_a_read_only_store(call: Call, suite_file: Path, finished: Path, small_disk: Path, tmp_path: Path) -> None:
    out = small_disk / "out"
    assert call("merge", finished, "-o", out).code == 0
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    answer = call("run", suite_file, "--out", out)
    assert answer.code == 1
    assert "results cannot be written to" in answer.err
    assert "--out" in answer.err
    assert call("table", out).code == 0
    assert "-o" in call("report", out).err
    assert call("report", out, "-o", tmp_path / "page.html").code == 0
    assert call("merge", out, "-o", tmp_path / "copy").code == 0
    assert told(tmp_path / "copy") == told(finished)


def test_two_runs_on_one_store_at_once(suite_file: Path, finished: Path, tmp_path: Path) -> None:
    runs = [start("run", suite_file, "--out", tmp_path / "out") for _ in range(2)]
    answers = [run.communicate(timeout=600) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], answers
    assert told(tmp_path / "out") == told(finished)
    assert temporary(tmp_path / "out") == []


class Backwards(datetime):
    """A clock that loses a year whenever it is asked."""

    asked = 0

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "Backwards":
        cls.asked += 1
        return cls(2030, 1, 1, tzinfo=UTC) - timedelta(days=365 * cls.asked)


def test_no_clock_decides_anything(
    call: Call, suite_file: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wall clock backwards, files dated before 1971 or after 2100: the same results, and they count as done."""
    out, clock = tmp_path / "out", iter(range(10**9, 0, -1000))
    monkeypatch.setattr(provenance, "datetime", Backwards)
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    assert call("run", suite_file, "--out", out, "--only", "embed", "--only", "clean").code == 0
    assert call("run", suite_file, "--out", out).code == 0
    assert Backwards.asked
    assert told(out) == told(finished)
    for number, path in enumerate(sorted(p for p in out.rglob("*") if p.is_file())):
        os.utime(path, (1, 1) if number % 2 else (2**32, 2**32))
    before = {p: p.stat().st_mtime for p in (out / "cells").iterdir()}
    assert call("run", suite_file, "--out", out).code == 0
    assert {p: p.stat().st_mtime for p in (out / "cells").iterdir()} == before


@pytest.mark.parametrize("room", ["cells", "rows", "examples"])
def test_what_was_damaged_is_measured_anew(
    call: Call, suite_file: Path, finished: Path, tmp_path: Path, room: str
) -> None:
    out = tmp_path / "out"
    assert call("merge", finished, "-o", out).code == 0
    victim = sorted(p for p in (out / room).rglob("*") if p.is_file())[0]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(bytes(content))
    if room == "cells":
        assert victim.name in call("table", out).err
    assert call("run", suite_file, "--out", out).code == 0
    assert told(out) == told(finished)
