"""A pretended accelerator: it computes on the CPU, and refuses what a real one refuses.

Its tensors lie on the device `pretended`. An operation on tensors of both devices raises an error, as with CUDA, so
that a tensor on the wrong device is found on a machine without a GPU. For a process of its own: what it changes in
torch stays changed.
"""

from typing import Any, final

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "pretended"
_aten = torch.ops.aten
# CUDA takes these from the CPU too.
FROM_BOTH = {_aten._to_copy.default, _aten.copy_.default, _aten.index.Tensor, _aten.index_put_.default}


def install() -> None:
    """Make the device, and let modules move to it."""
    _setup_privateuseone_for_python_backend(NAME, _Backend())
    # What it computes is done when the call returns; a backend in Python has no such function of its own.
    torch.accelerator.synchronize = _synchronize  # type: ignore[assignment]
    torch.__future__.set_swap_module_params_on_conversion(True)
    _Creating().__enter__()  # type: ignore[no-untyped-call]


def _synchronize(device: torch.device) -> None:
    if device.type != NAME:
        raise RuntimeError(f"waited for {device}, and the work is on {NAME}")


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


@final
class OnAccelerator(torch.Tensor):
    """A tensor on the device, whose values `held` keeps on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "OnAccelerator":
        made: OnAccelerator = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )
        made.held = held
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnAccelerator({self.held!r})"

    def tolist(self) -> Any:
        return self.held.tolist()

    def new_tensor(self, data: Any, **options: Any) -> torch.Tensor:  # type: ignore[override]
        # It is made without a dispatch, which would find no memory on the device.
        return OnAccelerator(self.held.new_tensor(data, **options))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _computed(func, args, kwargs or {})


class _Creating(TorchDispatchMode):
    """New tensors can be made on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
    there = [one for one in tensors if isinstance(one, OnAccelerator)]
    _check(func, tensors, there)
    asked = kwargs.get("device")
    onto = bool(there) if asked is None else torch.device(asked).type == NAME
    settings = {**kwargs, "device": torch.device("cpu")} if asked is not None else kwargs
    result = func(*tree_map(_held, args), **tree_map(_held, settings))
    if func is _aten.copy_.default:
        return args[0]
    if not onto:
        return result
    known = {id(one.held): one for one in there}
    return tree_map(lambda one: _wrapped(one, known), result)


def _check(func: Any, tensors: list[torch.Tensor], there: list[OnAccelerator]) -> None:
    here = [one for one in tensors if not isinstance(one, OnAccelerator) and one.ndim]
    if there and here and func not in FROM_BOTH:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found {NAME}:0 and cpu in {func}")


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnAccelerator) else value


def _wrapped(value: Any, known: dict[int, OnAccelerator]) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return known[id(value)] if id(value) in known else OnAccelerator(value)
