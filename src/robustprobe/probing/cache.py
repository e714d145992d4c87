"""Heads kept between runs by the fingerprint of all they depend on, and states of fits that were interrupted."""

import json
import os
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from robustprobe.core.files import sweep, write_whole

Weights = dict[str, Tensor]


class FitProgress(NamedTuple):
    """How far a fit is: the epoch that comes next, images seen so far, and the state of every candidate."""

    epoch: int
    seen: int
    states: list[dict[str, Any]]


def cache_folder() -> Path:
    """Where heads are kept: $ROBUSTPROBE_CACHE, or `robustprobe` in the user's cache folder."""
    if chosen := os.environ.get("ROBUSTPROBE_CACHE"):
        return Path(chosen)
    return user_cache_path("robustprobe", appauthor=False)


def load_weights(key: str) -> tuple[Weights, dict[str, Any]] | None:
    """Weights kept under a fingerprint and the facts beside them, or None where none can be read."""
    try:
        with safe_open(_path("heads", key, "safetensors"), framework="pt") as stored:
            weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            return weights, json.loads((stored.metadata() or {})["fit"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def save_weights(key: str, weights: Weights, facts: dict[str, Any]) -> None:
    """Keep weights under a fingerprint. A cache that cannot be written is left as it is."""
    whole = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
    _write(_path("heads", key, "safetensors"), save(whole, metadata={"fit": json.dumps(facts)}))


def load_progress(key: str, device: torch.device) -> FitProgress | None:
    """Where an interrupted fit may go on, or None where it begins."""
    try:
        stored = torch.load(_path("unfinished", key, "pt"), map_location=device, weights_only=True)
        return FitProgress(*stored)
    except Exception:  # bytes that are no checkpoint make torch raise whatever its reader meets first
        return None


def save_progress(key: str, progress: FitProgress) -> None:
    """Keep the state of a fit until it ends."""
    content = BytesIO()
    torch.save(tuple(progress), content)
    _write(_path("unfinished", key, "pt"), content.getvalue())


def forget_progress(key: str) -> None:
    """The fit has ended."""
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
