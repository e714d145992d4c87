"""Downloads by torchvision, which checks what arrives."""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from unittest import mock

from robustprobe.core.errors import UserError


def fetch(name: str, folder: Path, homepage: str, **options: Any) -> None:
    """Let the torchvision dataset of this name fetch and check its official archive into `folder`.

    Raises:
        UserError: the archive did not arrive, or is not the official one.
    """
    import torchvision

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with inside_only():
            getattr(torchvision.datasets, name)(folder, download=True, **options)
    except (OSError, RuntimeError, HTTPException, tarfile.TarError) as error:
        raise UserError(
            f"{name} could not be downloaded: {error}. Try again, or fetch the archive from {homepage} "
            f"and unpack it into {folder}."
        ) from error


@contextmanager
def inside_only() -> Iterator[None]:
    """Within it, archives are unpacked into their folder alone. Raises UserError where Python cannot do so.

    Whoever unpacks them: a member with an absolute name or `..`, a link that leads out, and a device are errors.
    Python does so with zip archives, and from 3.14 on with tar archives too.
    """
    if not hasattr(tarfile, "data_filter"):
        raise UserError("Python 3.11.4 or newer is needed to unpack archives safely; unpack it yourself, or update.")
    with mock.patch.object(tarfile.TarFile, "extraction_filter", staticmethod(tarfile.data_filter), create=True):
        yield
