"""Straight-through backward passes (BPDA, Athalye et al. 2018): forward as the model, backward as something near it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from robustprobe.core.errors import UserError, nearest
from robustprobe.core.freeze import held_networks

StandIn = Callable[[Tensor], Any]
"""What is differentiated in place of a module or a model: a function near it, with the same shape of answer."""
ENCODER = "encoder."


class ReplacedModule(NamedTuple):
    """A module, its name, and what stands in for it in the backward pass; None: the identity."""

    module: nn.Module
    name: str
    stand_in: StandIn | None


def straight_through(
    function: Callable[..., Any], modules: Mapping[str, StandIn | None], whole: StandIn | None = None
) -> Callable[..., Any]:
    """A function that answers as `function` does, with the gradient of a stand-in.

    Args:
        function: images to an answer; modules are looked for in the networks that it holds.
        modules: for each name, what stands in for that module in the backward pass; None: the identity.
        whole: what stands in for the whole function.

    Raises:
        UserError: no module of a name, or several.
    """
    replaced = [ReplacedModule(find_module(held_networks(function), name), name, g) for name, g in modules.items()]
    if not replaced and whole is None:
        return function

    def call(images: Tensor, *rest: Any) -> Any:
        with ExitStack() as stack:
            for one in replaced:
                stack.enter_context(_replaced(one))
            if whole is None:
                return function(images, *rest)
            return _valued(lambda x: function(x, *rest), whole, "the model", images)

    return call


def find_module(networks: Iterable[nn.Module], name: str) -> nn.Module:
    """The module of a name: its full path inside one of the networks, or the end of one, the shortest path first.

    `encoder.jpeg` and `jpeg` are one name, as the network may be the encoder or hold it.

    Raises:
        UserError: there is none, or there are several.
    """
    wanted = {name, name.removeprefix(ENCODER)}
    known = {path: module for network in networks for path, module in network.named_modules() if path}
    found = [(path, m) for path, m in known.items() if any(f".{path}".endswith(f".{w}") for w in wanted)]
    depth = min((path.count(".") for path, _ in found), default=0)
    nearby = {id(module): (path, module) for path, module in found if path.count(".") == depth}
    if not found:
        raise UserError(
            f"bpda names the module '{name}', which the model does not have.{nearest(name, known)} Give its path "
            "inside the encoder, as named_modules() says it."
        )
    if len(nearby) > 1:
        paths = ", ".join(path for path, _ in nearby.values())
        raise UserError(f"bpda names '{name}', which may be {paths}; give one whole path.")
    chosen: nn.Module = next(iter(nearby.values()))[1]
    return chosen


def has_module(network: nn.Module, name: str) -> bool:
    """Whether `find_module` finds one module of a name in a network."""
    try:
        find_module([network], name)
    except UserError:
        return False
    return True


@contextmanager
def _replaced(one: ReplacedModule) -> Iterator[None]:
    """The module with another backward pass while inside."""
    own, forward = vars(one.module).get("forward"), one.module.forward

    def straight(images: Tensor, *rest: Any, **named: Any) -> Any:
        return _valued(lambda x: forward(x, *rest, **named), one.stand_in, f"module '{one.name}'", images)

    one.module.forward = straight
    try:
        yield
    finally:
        del one.module.forward
        if own is not None:
            one.module.forward = own


def _valued(forward: StandIn, stand_in: StandIn | None, what: str, images: Tensor) -> Any:
    """What `forward` answers, with the gradient of the stand-in where one is needed."""
    if not (torch.is_grad_enabled() and images.requires_grad):
        return forward(images)
    with torch.no_grad():
        answer = forward(images.detach())
    path = images if stand_in is None else _stood_in(stand_in, images, what)
    if isinstance(answer, Tensor) and isinstance(path, Tensor):
        return _with_value(path, answer, what)
    if isinstance(answer, tuple) and isinstance(path, tuple) and len(answer) == len(path):
        parts = [_with_value(p, a, what) for p, a in zip(path, answer, strict=True)]
        return type(answer)(*parts) if hasattr(answer, "_fields") else tuple(parts)
    raise UserError(
        f"{what} answers a {type(answer).__name__}, its stand-in a {type(path).__name__}; both have to answer alike."
    )


def _stood_in(stand_in: StandIn, images: Tensor, what: str) -> Any:
    try:
        return stand_in(images)
    except Exception as error:
        raise UserError(
            f"the stand-in of {what} fails on {tuple(images.shape)}: {type(error).__name__}: {error}. It has to take "
            "what that takes."
        ) from error


def _with_value(path: Tensor, answer: Tensor, what: str) -> Tensor:
    if path.shape != answer.shape:
        raise UserError(
            f"{what} answers {tuple(answer.shape)}, its stand-in in the backward pass {tuple(path.shape)}; "
            "the identity suits modules that keep the shape. From Python, give a function with answers of that shape."
        )
    return cast(Tensor, _Valued.apply(path, answer))


class _Valued(torch.autograd.Function):
    """The value of the second argument with the gradient of the first."""

    @staticmethod
    def forward(context: Any, path: Tensor, answer: Tensor) -> Tensor:
        context.kind = path.dtype
        return answer.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].to(context.kind), None
