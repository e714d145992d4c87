"""torch's modes as the package expects them, whatever its caller has set."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def usual_mode() -> Iterator[None]:
    """Gradients are recorded and new tensors are float32 on the CPU inside, also for callers in `inference_mode`,
    `no_grad`, autocast, or with another default type or device; all of it is put back afterwards.
    """
    before = torch.get_default_dtype()
    with recording():
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


@contextmanager
def recording() -> Iterator[None]:
    """Gradients are recorded, nothing is rounded by autocast and new tensors are on the CPU inside; the default type
    stays the caller's.
    """
    device = nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
    with torch.inference_mode(False), torch.enable_grad(), without_autocast(), device:
        yield


@contextmanager
def without_autocast() -> Iterator[None]:
    """No autocast of the caller's inside."""
    with torch.autocast("cpu", enabled=False):
        if not torch.cuda.is_available():
            yield
            return
        with torch.autocast("cuda", enabled=False):
            yield
