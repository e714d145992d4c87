"""Tar archives of samples, listed by their headers and read in place, without unpacking."""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from robustprobe.core.errors import UserError
from robustprobe.core.files import COMPRESSED
from robustprobe.datasets._folders import is_hidden

MOST_MEMBER_BYTES = 2**28
MOST_SHARDS = 100_000
BLOCK = 512


class ShardMember(NamedTuple):
    """A file of a shard: key of its sample, extension, offset and size in bytes."""

    key: str
    ending: str
    start: int
    size: int


def expanded(pattern: str) -> list[str]:
    """Names that a pattern such as `a-{000..002}.tar` stands for. Raises UserError for over 100,000."""
    before, opening, rest = pattern.partition("{")
    inside, closing, after = rest.partition("}")
    first, dots, last = inside.partition("..")
    if not (opening and closing and dots and first.isdecimal() and last.isdecimal()):
        return [pattern]
    if int(last) - int(first) >= MOST_SHARDS:
        raise UserError(f"'{pattern}' names more than {MOST_SHARDS:,} shards; give a smaller range.")
    numbers = [f"{before}{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    return [number + tail for number in numbers for tail in expanded(after)]


def members(shard: Path) -> Iterator[ShardMember]:
    """The files of an uncompressed tar archive, by their headers alone. `a/b.seg.png` belongs to sample `a/b`.
    Hidden ones are left out.

    Raises:
        UserError: compressed, truncated or damaged; or a member is a link, a device or larger than 256 MiB.
    """
    try:
        with tarfile.open(shard, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined] # which would keep every header in memory
                folder, slash, name = member.name.removeprefix("./").rpartition("/")
                if member.isdir() or any(is_hidden(part) for part in (*folder.split("/"), name)):
                    continue  # such as the resource forks `._NAME` that macOS adds
                if not member.isreg() or member.issparse() or member.size > MOST_MEMBER_BYTES:
                    raise UserError(
                        f"{shard} holds {member.name[:80]!r}, a link, a device or a file over {MOST_MEMBER_BYTES:,} "
                        "bytes; expected plain files. Write the shard again."
                    )
                stem, _, ending = name.partition(".")
                yield ShardMember(folder + slash + stem, ending.lower(), member.offset_data, member.size)
            # tarfile takes a damaged header for the end of the archive; a real end consists of zeros.
            end = tar.offset
    except (OSError, tarfile.TarError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        packed = _compression(shard)
        remedy = f"it is compressed ({packed}); uncompress it, as images are read in place" if packed else f"{error}"
        remedy += "." if packed else ". Download it again."
        raise UserError(f"{shard} cannot be read as an uncompressed tar archive: {remedy}") from error
    if read_at(shard, end, BLOCK) != bytes(BLOCK):
        raise UserError(f"{shard} is truncated or damaged after {end:,} bytes. Download it again.")


def _compression(shard: Path) -> str:
    """The program that compressed a file, by its first bytes; empty where it is none of the usual ones."""
    start = read_at(shard, 0, 6) if shard.is_file() else b""
    return next((name for mark, name in COMPRESSED.items() if start.startswith(mark)), "")


def read_at(shard: Path, start: int, size: int) -> bytes:
    """`size` bytes of a file from offset `start`."""
    descriptor = os.open(shard, os.O_RDONLY)
    try:
        return os.pread(descriptor, size, start)
    finally:
        os.close(descriptor)
