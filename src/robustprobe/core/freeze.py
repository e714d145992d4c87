"""Models that stay as they are while they are attacked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def frozen(function: Callable[..., Any]) -> Iterator[None]:
    """Evaluation mode and no gradients for parameters while inside; everything is put back afterwards.

    An attack needs gradients of images alone. A function that is no `nn.Module` is left as it is.
    """
    modules = list(function.modules()) if isinstance(function, nn.Module) else []
    parameters = list(function.parameters()) if isinstance(function, nn.Module) else []
    modes, flags = [m.training for m in modules], [p.requires_grad for p in parameters]
    try:
        for module in modules:
            module.training = False
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for parameter, flag in zip(parameters, flags, strict=True):
            parameter.requires_grad_(flag)
