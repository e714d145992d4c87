"""Models that answer as they do and whose input gradient is another."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]


class _Backward(torch.autograd.Function):
    """The identity, with another gradient."""

    @staticmethod
    def forward(context: Any, images: Tensor, change: Function) -> Tensor:
        context.change = change
        return images.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return context.change(gradients[0]), None


def changed_gradient(images: Tensor, change: Function) -> Tensor:
    """The images; the gradient that comes back to them is `change` of what it would be."""
    return torch.as_tensor(_Backward.apply(images, change))


def with_gradient(change: Function) -> Callable[[Function], Function]:
    """Makes of a model one whose input gradient is changed."""
    return lambda model: lambda images: model(changed_gradient(images, change))
