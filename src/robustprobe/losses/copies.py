"""Losses of copy detection: similarities to items and what each query is a copy of, both (B, N), to one number (B,)."""

import torch
from torch import Tensor

from robustprobe.losses.retrieval import chosen_item

FAR = -2.0
"""Below every cosine."""


def own_similarity(similarity: Tensor, relevant: Tensor) -> Tensor:
    """The largest similarity of a query with what it is a copy of; `FAR` where it is a copy of nothing."""
    return torch.where(relevant, similarity, FAR).amax(1)


def other_similarity(similarity: Tensor, relevant: Tensor) -> Tensor:
    """The largest similarity of a query with anything else; `FAR` where there is nothing else."""
    return torch.where(relevant, FAR, similarity).amax(1)


def mistake(similarity: Tensor, relevant: Tensor) -> Tensor:
    """Grows towards a wrong decision: a copy that is not found, or the match of an image that is no copy.

    Minus the similarity of a copy with its original; of other images the largest similarity with an item.
    """
    own, other = own_similarity(similarity, relevant), other_similarity(similarity, relevant)
    return torch.where(relevant.any(1), -own, other)


def chosen_similarity(similarity: Tensor, relevant: Tensor) -> Tensor:
    """The similarity with the item that a targeted attack leads to."""
    return similarity.gather(1, chosen_item(relevant)[:, None])[:, 0]
