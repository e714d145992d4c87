"""Losses of rankings: similarities (B, N) of queries to items and relevance (B, N) to one number per query, (B,).

Each grows as relevant items fall behind the others. 0 for queries without a relevant item, or without any other.
"""

from typing import Protocol

import torch
from torch import Tensor

from robustprobe.core.sums import image_sums

TEMPERATURE = 0.07
BINS = 64
FAR = -1e9
"""A similarity that adds nothing to a sum of exponentials, with finite gradients."""


class RankingLoss(Protocol):
    """Similarities (B, N), what is relevant and what is irrelevant, by default all else, to a loss (B,)."""

    def __call__(self, similarity: Tensor, relevant: Tensor, irrelevant: Tensor | None = None) -> Tensor: ...


def soft_neighbour(similarity: Tensor, relevant: Tensor, irrelevant: Tensor | None = None) -> Tensor:
    """Soft nearest neighbour (Frosst et al. 2019, eq. 1): log-odds that a neighbour drawn by exp(s / 0.07) is wrong."""
    scaled = similarity / TEMPERATURE
    others = ~relevant if irrelevant is None else irrelevant
    wrong, right = torch.where(others, scaled, FAR), torch.where(relevant, scaled, FAR)
    return _where_ranked(relevant, others, _log_sum(wrong) - _log_sum(right))


def mean_similarity(similarity: Tensor, relevant: Tensor, irrelevant: Tensor | None = None) -> Tensor:
    """Mean similarity of the other items minus that of the relevant ones."""
    others = ~relevant if irrelevant is None else irrelevant
    right, wrong = relevant.sum(1).clamp(min=1), others.sum(1).clamp(min=1)
    away = image_sums(torch.where(others, similarity, 0)) / wrong
    return _where_ranked(relevant, others, away - image_sums(torch.where(relevant, similarity, 0)) / right)


def fast_ap(similarity: Tensor, relevant: Tensor, irrelevant: Tensor | None = None) -> Tensor:
    """1 - FastAP (Cakir et al. 2019, eq. 7): average precision of a soft histogram of similarities, in one pass.

    The bins are spread over the similarities of the query, which fill a small part of [-1, 1] for many encoders.
    """
    others = ~relevant if irrelevant is None else irrelevant
    low, high = (bound.detach() for bound in similarity.aminmax(dim=1, keepdim=True))
    place = (high - similarity) / (high - low).clamp(min=1e-6) * (BINS - 1)
    first = place.detach().floor().clamp(0, BINS - 2)
    share = place - first
    near = first.long()
    right = _histogram(near, share, relevant.to(share))
    both = _histogram(near, share, (relevant | others).to(share))
    precision = right.cumsum(1) / both.cumsum(1).clamp(min=1e-6)
    average = image_sums(precision * right) / relevant.sum(1).clamp(min=1)
    return _where_ranked(relevant, others, 1 - average)


def chosen_item(relevant: Tensor, irrelevant: Tensor | None = None) -> Tensor:
    """The item (B,) that a targeted attack leads to: the first irrelevant one after the first relevant one, cyclically.

    It depends on what is relevant alone, so that an attack and its judge mean the same item.
    """
    others = ~relevant if irrelevant is None else irrelevant
    count = relevant.shape[1]
    first = relevant.int().argmax(1, keepdim=True)
    order = (torch.arange(count, device=relevant.device) + first) % count
    step = others.gather(1, order).int().argmax(1, keepdim=True)
    return order.gather(1, step)[:, 0]


def chosen(similarity: Tensor, relevant: Tensor, irrelevant: Tensor | None = None) -> Tensor:
    """Log-probability that a neighbour drawn by exp(s / 0.07) is the item that a targeted attack leads to."""
    others = ~relevant if irrelevant is None else irrelevant
    scaled = torch.where(relevant | others, similarity / TEMPERATURE, FAR)
    return scaled.gather(1, chosen_item(relevant, irrelevant)[:, None])[:, 0] - _log_sum(scaled)


def chosen_rank(similarity: Tensor, relevant: Tensor, irrelevant: Tensor | None = None) -> Tensor:
    """The rank (B,) of that item among all that count; of equal similarities it comes last."""
    others = ~relevant if irrelevant is None else irrelevant
    own = similarity.gather(1, chosen_item(relevant, irrelevant)[:, None])
    return ((similarity >= own) & (relevant | others)).sum(1)


def _histogram(near: Tensor, share: Tensor, weight: Tensor) -> Tensor:
    """Weights (B, N) spread over the bins at `near` and the next one, (B, BINS)."""
    empty = share.new_zeros(len(share), BINS)
    return empty.scatter_add(1, near, weight * (1 - share)).scatter_add(1, near + 1, weight * share)


def _log_sum(values: Tensor) -> Tensor:
    """Logarithm (B,) of the sum of exponentials of values (B, N)."""
    largest = values.detach().amax(1, keepdim=True)
    return image_sums((values - largest).exp()).log() + largest[:, 0]


def _where_ranked(relevant: Tensor, irrelevant: Tensor, loss: Tensor) -> Tensor:
    return torch.where(relevant.any(1) & irrelevant.any(1), loss, 0)
