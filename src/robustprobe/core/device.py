"""Which device work runs on, what a call takes there, and memory given back."""

import ctypes
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import final

import torch

from robustprobe.core.errors import UserError

# A measurement that takes longer is not repeated.
SLOW_SECONDS = 0.5
# What Linux tells a process of itself.
PROCESS = Path("/proc/self")


def seconds_of(call: Callable[[], object]) -> float:
    """Seconds of a call: of the first where it is slow, else the mean of two that follow it warm."""
    start = time.monotonic()
    call()
    first = time.monotonic() - start
    if first > SLOW_SECONDS:
        return first
    call()
    call()
    return (time.monotonic() - start - first) / 2


def find_device(name: str) -> torch.device:
    """The device of a name; `auto` is CUDA where there is one.

    Raises:
        UserError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device '{name}' is not to be had here: {str(error).splitlines()[0]}. Use cpu.") from error
    return device


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@final
class PeakMemory:
    """Most memory held from now on: on a GPU of tensors there, on a CPU by this process, where Linux tells."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.known = device, True
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            (PROCESS / "clear_refs").write_text("5")
        except OSError:
            self.known = False

    @property
    def bytes(self) -> int | None:
        """The peak so far; None where it cannot be told."""
        if not self.known:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        try:
            lines = (PROCESS / "status").read_text().splitlines()
        except OSError:
            return None
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def return_free_memory() -> None:
    """Gives memory that is free back to the system, where the C library is glibc.

    It keeps what threads that read images have freed, in pieces, for each of them: a run over 10,000 images grew to
    2.1 GB without this.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
