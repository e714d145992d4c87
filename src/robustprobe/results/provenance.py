"""Provenance of a number: command, versions, git state, hardware."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from robustprobe.core.shared_names import shared_text
from robustprobe.results.records import Provenance

PACKAGES = ("robustprobe", "torch", "timm", "numpy", "pillow", "pyarrow", "safetensors")
OPTIONAL = ("transformers", "torchvision")
"""Packages that make some encoders; they are told where they are installed."""


def provenance(seconds: float, device: str, peak_memory: int | None, threads: Iterable[int] = ()) -> Provenance:
    """Provenance of work that has just ended and took `seconds`, with a peak memory in bytes, by processes with so many
    `threads` each.
    """
    return Provenance(
        command=shared_text(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        started=datetime.fromtimestamp(datetime.now(UTC).timestamp() - seconds, UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        versions=versions(),
        git=git_state(),
        hardware=hardware(),
        device=device,
        peak_memory=peak_memory,
        threads=tuple(sorted(set(threads))),
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *OPTIONAL):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found |= {} if name in OPTIONAL else {name: "not installed"}
    return found


@lru_cache(maxsize=1)
def git_state() -> str:
    """Commit of the source tree, marked if files differ from it; empty outside a git repository."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", folder, *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
            timeout=10,
        )
        return done.stdout.strip()

    try:
        if not git("ls-files", "--", "provenance.py"):
            return ""
        return git("rev-parse", "HEAD") + (" with changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


@lru_cache(maxsize=1)
def hardware() -> str:
    """Processor, number of cores and, if present, GPU."""
    import torch

    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    accelerator = f", {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ""
    return f"{model}, {os.cpu_count()} cores{accelerator}"
