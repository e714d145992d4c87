"""Adversarial weight perturbation (Wu et al., NeurIPS 2020): a gradient at weights that raise the loss."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

TINY = 1e-12


@contextmanager
def perturbed(parameters: Sequence[nn.Parameter], size: float) -> Iterator[None]:
    """Weights moved along their gradients inside, by `size` of their own L2 norm for each matrix or kernel.

    Biases, and scales and shifts of norms, stay as they are, as in the authors' code. Afterwards all weights have the
    bits that they had before.
    """
    moved = [p for p in parameters if p.grad is not None and p.ndim > 1]
    before = [p.detach().clone() for p in moved]
    try:
        with torch.no_grad():
            for parameter in moved:
                gradient = parameter.grad
                assert gradient is not None
                parameter.add_(gradient * (size * parameter.norm() / gradient.norm().clamp(min=TINY)))
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(moved, before, strict=True):
                parameter.copy_(value)
