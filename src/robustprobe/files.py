"""Files that are there whole or not at all, and the removal of what a killed process left of one."""

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

ATTEMPTS = 3


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all: temporary file, fsync, rename.

    Of several processes that write one file at once, each writes a whole one, and the last rename counts.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _write_once(path, content)
        except FileNotFoundError:
            # A machine that does not see our lock may have taken the temporary file for a leftover.
            if attempt == ATTEMPTS or not path.parent.is_dir():
                raise


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


def _write_once(path: Path, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".writing")
    try:
        with os.fdopen(descriptor, "wb") as file:
            _locked(descriptor)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
