"""Linear layers by oneDNN's kernel on processors on which torch's default, MKL, is slow.

On AMD processors MKL chooses kernels for older instruction sets: float32 matrix products run at about half the speed of
oneDNN's, which is part of torch too. Results agree to rounding, so numbers differ in their last bits between processor
vendors. Measured with torch 2.15 on one thread of an AMD EPYC, PGD on ViT-S/16 takes 1.68 [1.62, 1.74] times less
processor time (docs/concepts/attacks.md). On other processors nothing changes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextmanager
def fast_linear() -> Iterator[None]:
    """Inside, `F.linear` in float32 on the CPU with weights that ask for no gradient uses oneDNN's kernel."""
    if not pays():
        yield
        return
    with _Detour():
        yield


@lru_cache(maxsize=1)
def pays() -> bool:
    """Whether this machine gains: torch with MKL on an x86 processor that is not Intel's, and oneDNN that agrees.

    It does not depend on a measurement, so that the same machine always gives the same numbers.
    """
    try:
        vendors = {
            line
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("vendor_id")
        }
    except OSError:
        return False
    if not vendors or any("GenuineIntel" in line for line in vendors) or not torch.backends.mkl.is_available():
        return False
    values = torch.linspace(-1, 1, 3 * 16, dtype=torch.float32).reshape(3, 16)
    weight = torch.linspace(-1, 1, 5 * 16, dtype=torch.float32).reshape(5, 16).sin()
    bias = torch.linspace(0, 1, 5, dtype=torch.float32)
    try:
        return torch.allclose(_product(values, weight, bias), values @ weight.T + bias, atol=1e-5)
    except (AttributeError, RuntimeError):
        return False


def _product(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise.default(values, weight, bias, "none", [], "")
    return found


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return _product(values, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _product(gradient, ctx.weight.t(), None), None, None


class _Detour(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # A compiled model has kernels of its own, and the compiler knows no gradient of the one used here.
        if func is F.linear and not torch.compiler.is_compiling():
            values, weight, bias = _arguments(*args, **(kwargs or {}))
            if _fits(values, weight, bias):
                return _Linear.apply(values, weight, bias)
        return func(*args, **(kwargs or {}))


def _arguments(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    return input, weight, bias


def _fits(values: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    plain = values.dtype == weight.dtype == torch.float32 and values.device.type == "cpu"
    frozen = not weight.requires_grad and (bias is None or not bias.requires_grad)
    return plain and frozen and values.ndim >= 2 and values.numel() > 0 and not torch.is_autocast_enabled("cpu")
