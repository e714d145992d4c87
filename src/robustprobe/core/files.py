"""Files that are there whole or not at all, and the removal of what a killed process left of one."""

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import final

from platformdirs import user_cache_path

LFS_POINTER = b"version https://git-lfs"
"""The first bytes of what Git LFS leaves in place of a file."""
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""The first bytes of a compressed file, and the program that made it."""
NUMPY_ARRAY = b"\x93NUMPY"
"""The first bytes of an array of NumPy."""
ATTEMPTS = 3
# Files open at once while they are written together; systems begin to refuse at 256 or 1024.
TOGETHER = 200


def cache_folder() -> Path:
    """Where heads and the index of files are kept: $ROBUSTPROBE_CACHE, or `robustprobe` in the user's cache folder."""
    if chosen := os.environ.get("ROBUSTPROBE_CACHE"):
        return Path(chosen)
    return user_cache_path("robustprobe", appauthor=False)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all: temporary file, fsync, rename.

    Of several processes that write one file at once, each writes a whole one, and the last rename counts.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with _Temporary(path, content) as made:
                os.fsync(made.descriptor)
                made.rename()
            return
        except FileNotFoundError:
            # A machine that does not see our lock may have taken the temporary file for a leftover.
            if attempt == ATTEMPTS or not path.parent.is_dir():
                raise


def write_all(files: Iterable[tuple[Path, Callable[[], bytes]]]) -> None:
    """Write many files as `write_whole` does, in order, but flush some hundreds of them at once, which is faster.

    Where that fails, those that are there are whole.
    """
    remaining = iter(files)
    while some := list(islice(remaining, TOGETHER)):
        with ExitStack() as stack:
            made = [stack.enter_context(_Temporary(path, read())) for path, read in some]
            os.sync()
            for one in made:
                one.rename()


def sweep(folders: Sequence[Path]) -> int:
    """Remove the temporary files of `write_whole` that nobody writes any more; how many they were.

    Who writes one holds a lock on it, which ends with the process. Where locks are not to be had, files stay.
    """
    removed = 0
    for folder in folders:
        for leftover in folder.glob(".*.writing"):
            with suppress(OSError):
                descriptor = os.open(leftover, os.O_RDWR)
                try:
                    if _locked(descriptor):
                        leftover.unlink()
                        removed += 1
                finally:
                    os.close(descriptor)
    return removed


@final
class _Temporary:
    """A file with the content of the one beside it that it will be; locked while it is open."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.content = path, content

    def __enter__(self) -> "_Temporary":
        self.descriptor, self.name = tempfile.mkstemp(
            dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".writing"
        )
        try:
            _locked(self.descriptor)
            written = 0
            while written < len(self.content):
                written += os.write(self.descriptor, memoryview(self.content)[written:])
            os.chmod(self.name, 0o666 & ~_umask())
        except BaseException:
            self.__exit__()
            raise
        self.content = b""
        return self

    def rename(self) -> None:
        """Become the other file."""
        os.replace(self.name, self.path)

    def __exit__(self, *_: object) -> None:
        # Gone already where it was renamed.
        with suppress(OSError):
            os.unlink(self.name)
        os.close(self.descriptor)


def _locked(descriptor: int) -> bool:
    """Whether this process now holds the only lock on a file."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def _umask() -> int:
    # Temporary files are private; results are as readable as any other file of the user's.
    mask = os.umask(0)
    os.umask(mask)
    return mask
