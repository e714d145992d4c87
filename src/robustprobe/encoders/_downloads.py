"""Weight files from caches and the network, with error messages for missing ones.

A file that is not in its cache is downloaded, unless the program is offline. A cached file is used without asking the
network, so that numbers do not change with a repository.
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
from robustprobe.core.network import no_way_to

SWITCH = "HF_HUB_OFFLINE"


class Located(NamedTuple):
    """A file of a hub repository, and its commit."""

    path: Path
    commit: str


def offline() -> bool:
    """Whether downloads are forbidden: `go_offline` was called, or HF_HUB_OFFLINE is set to 1."""
    return os.environ.get(SWITCH, "").upper() in {"1", "ON", "YES", "TRUE"}


def go_offline() -> None:
    """Use caches only and open no socket from now on, in this process and its child processes."""
    os.environ[SWITCH] = "1"
    constants.HF_HUB_OFFLINE = True  # the library reads the variable at import only


def hub_file(spec: str, repository: str, names: Sequence[str], revision: str | None = None) -> Located:
    """The first of `names` that a Hugging Face repository has: from the cache, else from the network.

    Raises:
        UserError: none is available; the message says what to download and where it was searched.
    """
    reason = "no downloads offline"
    tries = [(name, local) for local in ((True,) if offline() else (True, False)) for name in names]
    for name, local in tries:
        # The library would try again for half a minute.
        if not local and (why := no_way_to(constants.ENDPOINT)):
            reason = why
            break
        try:
            return _located(hf_hub_download(repository, name, revision=revision, local_files_only=local))
        except HFValidationError as error:
            raise UserError(f"{spec}: '{repository}' is not the name of a repository: {error}.") from error
        except (EntryNotFoundError, HfHubHTTPError, OSError) as error:
            if local:
                continue
            reason = str(error).strip().split("\n")[0].rstrip(".")
            if isinstance(error, LocalEntryNotFoundError) or not isinstance(error, EntryNotFoundError):
                break
    at = f" --revision {revision}" if revision else ""
    raise UserError(
        f"{spec} needs {' or '.join(names)} of the Hugging Face repository {repository}"
        f"{f' at {revision}' if revision else ''}; it is not in {constants.HF_HUB_CACHE} ({reason}). Download it on "
        f"a machine with a network by `hf download {repository} {names[0]}{at}`, then set HF_HOME or copy the cache."
    )


def _located(path: str) -> Located:
    parts = Path(path).parts
    return Located(Path(path), parts[parts.index("snapshots") + 1])


def url_file(spec: str, url: str) -> Path:
    """The file of a URL in torch.hub's folder of checkpoints, downloaded if it is missing.

    Raises:
        UserError: it is missing and cannot be downloaded.
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
    """Context in which a failed download of torch.hub is a `UserError` with URL and path; offline all fail."""
    real = torch.hub.download_url_to_file

    def download(url: str, dst: str, *arguments: Any, **options: Any) -> None:
        try:
            if offline():
                raise OSError("no downloads offline")
            real(url, dst, *arguments, **options)
        except OSError as error:
            raise UserError(
                f"{spec} needs {url}, which is not at {dst} ({error}). Download it on another machine and copy it "
                "there, or set TORCH_HOME."
            ) from error

    torch.hub.download_url_to_file = download
    try:
        yield
    finally:
        torch.hub.download_url_to_file = real
