"""A stand-in for a model: the operations of its forward pass, differentiated anew.

A model can answer rightly and hand back another gradient: by `detach`, by a backward pass of its own, by rounding. The
operations that its forward pass ran are recorded below automatic differentiation, and run again with it: parts that
were detached have a gradient, operations have their own backward passes, and rounding is passed straight through
(Bengio et al. 2013; Athalye et al. 2018, section 4.1). For a model that hides nothing the gradient is the same.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from robustprobe.core.types import Features

Layers = Callable[[Tensor, tuple[int, ...]], list[Features]]
aten = torch.ops.aten
Operation = Callable[..., Any]


class LostTrackError(Exception):
    """No operation of torch leads from the images to the answer."""


class _Call(NamedTuple):
    """An operation with what went in and what came out; tensors among them are kept, so that none is mistaken."""

    operation: Operation
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    answer: Any


class _Recorder(TorchDispatchMode):
    """Writes down every operation that runs inside, below automatic differentiation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[_Call] = []

    def __torch_dispatch__(
        self, func: Operation, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        self.calls.append(_Call(func, args, dict(kwargs or {}), answer))
        return answer


class SameComputation:
    """A function of images that runs again what another one ran when images of that shape were first shown to it.

    Random numbers are drawn anew at each call; decisions of Python code are those of the first call.
    """

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self._function = function
        self._recordings: dict[torch.Size, _Recording] = {}

    def __call__(self, images: Tensor) -> Any:
        """Answers for images (B, 3, H, W).

        Raises:
            LostTrackError: no operation of torch leads from the images to the answer.
        """
        if images.shape not in self._recordings:
            self._recordings[images.shape] = _recorded(self._function, images.detach())
        return self._recordings[images.shape].run(images)


class LayersAnew:
    """The same for features of chosen layers: images and numbers of layers to features."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._chosen: dict[tuple[int, ...], SameComputation] = {}

    def __call__(self, images: Tensor, which: tuple[int, ...]) -> list[Features]:
        if which not in self._chosen:
            self._chosen[which] = SameComputation(lambda shown: self._layers(shown, which))
        found: list[Features] = self._chosen[which](images)
        return found


class _Recording(NamedTuple):
    """What ran for images, and the answer."""

    images: Tensor
    calls: list[_Call]
    answer: Any

    def run(self, images: Tensor) -> Any:
        # Operations without images are run too: later ones may write what depends on images into their answers.
        live: dict[int, Any] = {id(self.images): images.clone()}

        def now(value: Any) -> Any:
            return live.get(id(value), value) if isinstance(value, Tensor) else value

        for call in self.calls:
            operation = DIFFERENTIABLE.get(call.operation, call.operation)
            answer = operation(*tree_map(now, call.args), **tree_map(now, call.kwargs))
            for old, new in zip(tree_leaves(call.answer), tree_leaves(answer), strict=True):
                if isinstance(old, Tensor):
                    live[id(old)] = new
        found = tree_map(now, self.answer)
        if images.requires_grad and not any(part.requires_grad for part in tree_leaves(found)):
            raise LostTrackError("no operation of torch leads from the images to the answer")
        return found


def _recorded(function: Callable[[Tensor], Any], images: Tensor) -> _Recording:
    with _plain_attention(), torch.no_grad(), _Recorder() as recorder:
        answer = function(images)
    return _Recording(images, recorder.calls, answer)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention by operations that can be differentiated, though nothing asks for a gradient while recording."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _straight_through(operation: Operation) -> Operation:
    def call(values: Tensor, *rest: Any, **named: Any) -> Tensor:
        change: Tensor = operation(values.detach(), *rest, **named) - values.detach()
        return values + change

    return call


def _linear(values: Tensor, weight: Tensor, bias: Tensor | None, *_: Any) -> Tensor:
    return torch.nn.functional.linear(values, weight, bias)


def _itself(values: Tensor) -> Tensor:
    same: Tensor = aten.alias.default(values)
    return same


DIFFERENTIABLE: dict[Operation, Operation] = {
    aten.detach.default: _itself,
    **{
        one: _straight_through(one)
        for one in (aten.round.default, aten.round.decimals, aten.floor.default, aten.ceil.default, aten.trunc.default)
    },
    # What `fast_linear` runs has no backward pass of its own.
    **({torch.ops.mkldnn._linear_pointwise.default: _linear} if torch.backends.mkldnn.is_available() else {}),
}
