"""Downloads by torchvision, which checks what arrives."""

from http.client import HTTPException
from pathlib import Path
from typing import Any

from robustprobe.errors import UserError


def fetch(name: str, folder: Path, homepage: str, **options: Any) -> None:
    """Let the torchvision dataset of this name fetch and check its official archive into `folder`.

    Raises:
        UserError: the archive did not arrive, or is not the official one.
    """
    import torchvision

    folder.mkdir(parents=True, exist_ok=True)
    try:
        getattr(torchvision.datasets, name)(folder, download=True, **options)
    except (OSError, RuntimeError, HTTPException) as error:
        raise UserError(
            f"{name} could not be downloaded: {error}. Try again, or fetch the archive from {homepage} "
            f"and unpack it into {folder}."
        ) from error
