"""Tar archives of samples, listed by their headers and read in place: nothing is unpacked, nothing held."""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from robustprobe.core.errors import UserError

MOST_MEMBER_BYTES = 2**28
MOST_SHARDS = 100_000
BLOCK = 512


class ShardMember(NamedTuple):
    """A file of a shard: the sample it is of, its ending, and where its bytes lie."""

    key: str
    ending: str
    start: int
    size: int


def expanded(pattern: str) -> list[str]:
    """The names that `a-{000..002}.tar` stands for; ranges keep their zeros. Raises UserError for over 100,000."""
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
    """The files of an uncompressed tar archive, by their headers alone. `a/b.seg.png` is of sample `a/b`.

    Raises:
        UserError: compressed, cut off or damaged; or a link, a device, or more than 256 MiB among them.
    """
    try:
        with tarfile.open(shard, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined] # which would hold every header
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse() or member.size > MOST_MEMBER_BYTES:
                    raise UserError(
                        f"{shard} holds {member.name[:80]!r}, a link, a device or a file over {MOST_MEMBER_BYTES:,} "
                        "bytes; expected plain files. Write the shard anew."
                    )
                folder, slash, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                yield ShardMember(folder + slash + stem, ending.lower(), member.offset_data, member.size)
            # A damaged header looks like the end to tarfile, but for the zeros that an end is made of.
            end = tar.offset
    except (OSError, tarfile.TarError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{shard} cannot be read as an uncompressed tar archive: {error}. Fetch it again.") from error
    if read_at(shard, end, BLOCK) != bytes(BLOCK):
        raise UserError(f"{shard} is cut off or damaged after {end:,} bytes. Fetch it again.")


def read_at(shard: Path, start: int, size: int) -> bytes:
    """Bytes of a file."""
    descriptor = os.open(shard, os.O_RDONLY)
    try:
        return os.pread(descriptor, size, start)
    finally:
        os.close(descriptor)
