"""Batch-invariant sums per image: the same bits for an image alone and in a batch."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor


def image_sums(values: Tensor) -> Tensor:
    """Sum (B,) of the values (B, ...) of each image.

    A single image is summed as one of two: torch splits a sum with a single result among threads, which rounds
    differently.
    """
    flat = values.flatten(1)
    return flat.expand(2, -1).sum(1)[:1] if len(flat) == 1 else flat.sum(1)


def sum_of(values: Sequence[Tensor]) -> Tensor:
    """Sum of tensors (B,), one after another: a reduction across a stack rounds by the index in the batch."""
    return reduce(torch.add, values)


def mean_of(values: Sequence[Tensor]) -> Tensor:
    """Mean of tensors (B,)."""
    return sum_of(values) / len(values)
