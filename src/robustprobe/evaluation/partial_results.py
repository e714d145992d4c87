"""Finished shards of cells that are not finished: on disk until the cell is, so that no work is done twice.

    DIR/shards/JOB/SHARD.pt    a checksum, and what is kept of the batches of a shard

JOB names everything the numbers depend on. A file is whole or not there at all; one that is damaged is removed, and its
images are attacked again. What is in it comes from one's own runs, and is read as tensors and plain values only.
"""

import hashlib
import io
import pickle
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from robustprobe.core.files import write_whole
from robustprobe.core.fingerprints import fingerprint
from robustprobe.evaluation.collect import Judged, KeptImage

_CHECKSUM = 32
ATTEMPTS = 10


class PartialResult(NamedTuple):
    """Some images of a job, judged: for each batch what it left at each eps; the most memory held, in bytes; and on a
    CPU the threads of torch.
    """

    ids: tuple[str, ...]
    batches: list[tuple[Judged, ...]]
    peak: int | None = None
    threads: int | None = None


class DamagedError(ValueError):
    """Bytes that are not what was written."""


def packed(shard: PartialResult) -> bytes:
    """A partial result as bytes with their checksum."""
    batches = [[_plain_piece(piece) for piece in pieces] for pieces in shard.batches]
    buffer = io.BytesIO()
    data = {"ids": list(shard.ids), "batches": batches, "peak": shard.peak, "threads": shard.threads}
    torch.save(data, buffer)
    content = buffer.getvalue()
    return hashlib.sha256(content).digest() + content


def unpacked(content: bytes) -> PartialResult:
    """The shard of `packed`. Raises DamagedError where a bit of it has changed."""
    checksum, content = content[:_CHECKSUM], content[_CHECKSUM:]
    if hashlib.sha256(content).digest() != checksum:
        raise DamagedError("its checksum does not match")
    try:
        data = torch.load(io.BytesIO(content), weights_only=True)
        batches = [tuple(_piece(piece) for piece in pieces) for pieces in data["batches"]]
        return PartialResult(tuple(data["ids"]), batches, data.get("peak"), data.get("threads"))
    except (RuntimeError, pickle.UnpicklingError, KeyError, TypeError) as error:
        raise DamagedError(str(error)) from error


def _plain_piece(piece: Judged) -> dict[str, Any]:
    searches = [_plain_piece(search) for search in piece.searches]
    return piece._asdict() | {"kept": [one._asdict() for one in piece.kept], "searches": searches}


def _piece(data: dict[str, Any]) -> Judged:
    searches = tuple(_piece(search) for search in data["searches"])
    return Judged(**data | {"kept": [KeptImage(**one) for one in data["kept"]], "searches": searches})


class PartialResultFolder:
    """The finished shards of one job in a folder of results."""

    def __init__(self, results: Path, job: str) -> None:
        self.folder = results / "shards" / job

    def load(self, ids: Sequence[str]) -> list[PartialResult]:
        """Shards that are there, of images among `ids`, no image twice."""
        wanted, found = set(ids), []
        for path in self._files():
            try:
                shard = unpacked(path.read_bytes())
            except (OSError, DamagedError):
                path.unlink(missing_ok=True)
                continue
            if wanted.issuperset(shard.ids):
                wanted.difference_update(shard.ids)
                found.append(shard)
        return found

    def _files(self) -> list[Path]:
        """The files of shards; none where another run has removed the folder."""
        try:
            return sorted(path for path in self.folder.iterdir() if path.suffix == ".pt" and path.name[0] != ".")
        except FileNotFoundError:
            return []

    def keep(self, shard: PartialResult) -> None:
        """Write a shard, whole or not at all.

        Another run in the same folder that has finished the job may remove its shards at any moment; the shard is then
        written again, or left out where that goes on: its images are judged already.
        """
        content = packed(shard)
        for _ in range(ATTEMPTS):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_whole(self.folder / f"{fingerprint(shard.ids)}.pt", content)
                return
            # Made and removed by other runs between two steps of mkdir, a folder is said to exist and is none.
            except (FileNotFoundError, FileExistsError):
                if not self.folder.parent.parent.is_dir():
                    raise

    def remove(self) -> None:
        """Forget all shards of the job: its cells are written."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # other jobs have shards there
            self.folder.parent.rmdir()
