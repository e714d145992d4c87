"""Downloads by torchvision, which verifies checksums."""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from unittest import mock

from robustprobe.core.errors import UserError


def fetch(name: str, folder: Path, homepage: str, **options: Any) -> None:
    """Download and verify the official archive of the torchvision dataset `name` into `folder`.

    Raises:
        UserError: the download failed, or the archive is not the official one.
    """
    import torchvision

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with inside_only():
            getattr(torchvision.datasets, name)(folder, download=True, **options)
    except (OSError, RuntimeError, HTTPException, tarfile.TarError) as error:
        raise UserError(
            f"{name} could not be downloaded: {error}. Try again, or download the archive from {homepage} "
            f"and unpack it into {folder}."
        ) from error


@contextmanager
def inside_only() -> Iterator[None]:
    """Context that lets archives be unpacked into their own folder only. Raises UserError if Python lacks the filter.

    Members with an absolute name or `..`, links that point outside, and devices are errors, also in torchvision's code.
    Python does this by default for zip archives, and from 3.14 on for tar archives too.
    """
    if not hasattr(tarfile, "data_filter"):
        raise UserError("Python 3.11.4 or newer is needed to unpack archives safely; unpack it yourself, or update.")
    with mock.patch.object(tarfile.TarFile, "extraction_filter", staticmethod(tarfile.data_filter), create=True):
        yield
