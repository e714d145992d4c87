"""Devices: their choice by name, time of a call, peak memory, and the return of free memory."""

import ctypes
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple, final

import torch
from torch import nn

from robustprobe.core.arguments import came
from robustprobe.core.errors import UserError

# A measurement that takes longer is not repeated.
SLOW_SECONDS = 0.5
# Linux's interface to the memory statistics of this process.
PROCESS = Path("/proc/self")
MEMORY = Path("/proc/meminfo")
CONTAINER = Path("/sys/fs/cgroup")


@final
@dataclass(frozen=True)
class Elapsed:
    """Seconds that something took on the clock, and those of computing: what it takes where nothing else runs."""

    computing: float = 0.0
    clock: float = 0.0

    @property
    def load(self) -> float:
        """How many times longer the clock ran than the computing, 1 at least."""
        return max(1.0, self.clock / self.computing) if self.computing else 1.0

    def __add__(self, other: "Elapsed") -> "Elapsed":
        return Elapsed(self.computing + other.computing, self.clock + other.clock)

    def __mul__(self, factor: float) -> "Elapsed":
        return Elapsed(self.computing * factor, self.clock * factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "Elapsed":
        return self * (1 / divisor)


class Clocks(NamedTuple):
    """Clocks in seconds: `wall` time, and processor time of the calling `thread` and of all threads (`process`)."""

    wall: Callable[[], float] = time.monotonic
    thread: Callable[[], float] = time.thread_time
    process: Callable[[], float] = time.process_time

    def read(self) -> tuple[float, float, float]:
        """What each of them shows."""
        return self.wall(), self.thread(), self.process()


CLOCKS = Clocks()


def seconds_of(call: Callable[[], object], device: torch.device, clocks: Clocks = CLOCKS) -> Elapsed:
    """Seconds of a call: of the first if it is slow, else the mean of two more calls after this warm-up.

    On a CPU, seconds of computing are processor time: of the calling thread, or of all threads divided by those that
    torch uses, whichever is more. On an accelerator they are those of the clock, until its work is done.
    """
    first = _timed(call, device, clocks)
    if first.clock > SLOW_SECONDS:
        return first
    return _timed(lambda: (call(), call()), device, clocks) / 2


def _timed(call: Callable[[], object], device: torch.device, clocks: Clocks) -> Elapsed:
    _wait_for(device)
    before = clocks.read()
    call()
    _wait_for(device)
    wall, thread, process = (after - start for after, start in zip(clocks.read(), before, strict=True))
    used = max(thread, process / torch.get_num_threads())
    # The processor's clock may be coarser than the call.
    return Elapsed(min(used, wall) if device.type == "cpu" and used > 0 else wall, wall)


def _wait_for(device: torch.device) -> None:
    """Work of an accelerator goes on after the call that started it."""
    if device.type not in ("cpu", "meta"):
        torch.accelerator.synchronize(device)


def find_device(name: str) -> torch.device:
    """The device of a name; `auto` is CUDA where it is available, else the CPU.

    Raises:
        UserError: the device is not available on this machine.
    """
    if isinstance(name, str) and name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(name, str | int | torch.device) or isinstance(name, bool):
        raise UserError(f"device is {came(name)}; give a name, such as cpu, cuda or cuda:1.")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(
            f"device '{name}' is not available on this machine: {str(error).splitlines()[0]}. Use cpu."
        ) from error
    return device


def device_of(module: nn.Module) -> torch.device | None:
    """Where a module's first parameter or buffer lies; None where it has none."""
    first = next(chain(module.parameters(), module.buffers()), None)
    return None if first is None else first.device


def cores() -> int:
    """Number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@final
class PeakMemory:
    """Peak memory in bytes from now on: of tensors on a GPU; of the whole process on a CPU, on Linux only."""

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
        """The peak so far; None where it is unknown."""
        if not self.known:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        try:
            lines = (PROCESS / "status").read_text(encoding="utf-8").splitlines()
        except OSError:
            return None
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process may still take: of the GPU, or of the machine within the limit of its container. None
    where that is not known.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    known = [amount for amount in (_machine_memory(), _container_memory()) if amount is not None]
    return min(known, default=None)


def _machine_memory() -> int | None:
    try:
        lines = MEMORY.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _container_memory() -> int | None:
    try:
        limit, used = (
            (CONTAINER / name).read_text(encoding="utf-8").strip() for name in ("memory.max", "memory.current")
        )
    except OSError:
        return None
    return max(0, int(limit) - int(used)) if limit.isdecimal() and used.isdecimal() else None


def held_memory(device: torch.device) -> int | None:
    """Bytes held now: of tensors on a GPU, by the process on a CPU; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return_free_memory()
    return PeakMemory(device).bytes


def bytes_of(call: Callable[[], object], device: torch.device) -> int | None:
    """Most bytes that a call holds beside what is held before it; None where that is not known."""
    return_free_memory()
    peak = PeakMemory(device)
    before = peak.bytes
    call()
    after = peak.bytes
    return None if before is None or after is None else max(0, after - before)


def return_free_memory() -> None:
    """Return free memory to the operating system, where the C library is glibc.

    glibc keeps the memory that reading threads have freed, in fragments per thread: without this call a run over 10,000
    images grew to 2.1 GB.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def out_of_memory(error: BaseException) -> bool:
    """Whether this says that memory did not suffice, of a device or of the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in text or "out of memory" in text.lower())
