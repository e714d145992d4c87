"""Weights on this machine: where they are looked for, and what to say where they are missing.

Loading is fetching: a file that is not in its cache is downloaded, unless the program is offline. What is in the cache
is used as it is, so that numbers do not move with a repository.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from robustprobe.core.errors import UserError

SWITCH = "HF_HUB_OFFLINE"


class Located(NamedTuple):
    """A file of a hub repository, and the commit it comes from."""

    path: Path
    commit: str


def offline() -> bool:
    """Whether nothing may be fetched: `go_offline` was called, or HF_HUB_OFFLINE is set to 1."""
    return os.environ.get(SWITCH, "").upper() in {"1", "ON", "YES", "TRUE"}


def go_offline() -> None:
    """From now on, in this process and those it starts, weights come from the caches only and no socket is opened."""
    os.environ[SWITCH] = "1"
    constants.HF_HUB_OFFLINE = True  # the library read the variable when it was imported


def hub_file(spec: str, repository: str, names: Sequence[str], revision: str | None = None) -> Located:
    """The first of `names` that a Hugging Face repository has: from the cache as it is, or else from the network.

    Raises:
        UserError: none can be had; the message says what to fetch and where it was looked for.
    """
    reason = "nothing is fetched offline"
    tries = [(name, local) for local in ((True,) if offline() else (True, False)) for name in names]
    for name, local in tries:
        try:
            return _located(hf_hub_download(repository, name, revision=revision, local_files_only=local))
        except HFValidationError as error:
            raise UserError(f"{spec}: '{repository}' is no name of a repository: {error}.") from error
        except (EntryNotFoundError, HfHubHTTPError, OSError) as error:
            if local:
                continue
            reason = str(error).strip().split("\n")[0].rstrip(".")
            if isinstance(error, LocalEntryNotFoundError) or not isinstance(error, EntryNotFoundError):
                break
    at = f" --revision {revision}" if revision else ""
    raise UserError(
        f"{spec} needs {' or '.join(names)} of the Hugging Face repository {repository}"
        f"{f' at {revision}' if revision else ''}; it is not in {constants.HF_HUB_CACHE} ({reason}). Fetch it where "
        f"there is a network with `hf download {repository} {names[0]}{at}`, and set HF_HOME or copy the cache here."
    )


def _located(path: str) -> Located:
    parts = Path(path).parts
    return Located(Path(path), parts[parts.index("snapshots") + 1])


def url_file(spec: str, url: str) -> Path:
    """The file of a URL in torch.hub's folder of checkpoints; downloaded where it is missing.

    Raises:
        UserError: it is neither there nor can it be fetched.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.is_file():
        return path
    with missing_downloads_named(spec):
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=False)
    return path


@contextmanager
def missing_downloads_named(spec: str) -> Iterator[None]:
    """Within it, what torch.hub cannot fetch is a `UserError` with URL and place; offline it fetches nothing."""
    real = torch.hub.download_url_to_file

    def download(url: str, dst: str, *arguments: Any, **options: Any) -> None:
        try:
            if offline():
                raise OSError("nothing is fetched offline")
            real(url, dst, *arguments, **options)
        except OSError as error:
            raise UserError(
                f"{spec} needs {url}, which is not at {dst} ({error}). Fetch it where there is a network, and put it "
                "there, or set TORCH_HOME."
            ) from error

    torch.hub.download_url_to_file = download
    try:
        yield
    finally:
        torch.hub.download_url_to_file = real
