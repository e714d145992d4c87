"""The cache of heads, by fingerprint of everything they depend on, and of states of interrupted fits."""

import json
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from robustprobe.core.files import cache_folder, sweep, write_whole

Weights = dict[str, Tensor]


class FitProgress(NamedTuple):
    """Progress of a fit: index of the next epoch, images seen so far, and the state of every candidate."""

    epoch: int
    seen: int
    states: list[dict[str, Any]]


def load_weights(key: str) -> tuple[Weights, dict[str, Any]] | None:
    """Weights stored under a fingerprint with their metadata, or None if there are none that can be read."""
    try:
        with safe_open(_path("heads", key, "safetensors"), framework="pt") as stored:
            weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            return weights, json.loads((stored.metadata() or {})["fit"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def save_weights(key: str, weights: Weights, facts: dict[str, Any]) -> None:
    """Store weights under a fingerprint. Does nothing if the cache cannot be written."""
    whole = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
    _write(_path("heads", key, "safetensors"), save(whole, metadata={"fit": json.dumps(facts)}))


def load_progress(key: str, device: torch.device) -> FitProgress | None:
    """The saved progress of an interrupted fit, or None if there is none."""
    try:
        stored = torch.load(_path("unfinished", key, "pt"), map_location=device, weights_only=True)
        return FitProgress(*stored)
    except Exception:  # torch raises various exceptions for bytes that are not a checkpoint
        return None


def save_progress(key: str, progress: FitProgress) -> None:
    """Store the state of a fit until it ends."""
    content = BytesIO()
    torch.save(tuple(progress), content)
    _write(_path("unfinished", key, "pt"), content.getvalue())


def forget_progress(key: str) -> None:
    """Delete the stored state of a fit that has ended."""
    if key:
        with suppress(OSError):
            _path("unfinished", key, "pt").unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep([path.parent])
        write_whole(path, content)


def _path(room: str, key: str, kind: str) -> Path:
    return cache_folder() / room / f"{key}.{kind}"
