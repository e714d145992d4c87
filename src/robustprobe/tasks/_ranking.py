"""Rankings of gallery items: the gallery as a head, and what each query contributes to the metrics."""

import math
from collections.abc import Iterable
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor

from robustprobe.core.sums import image_sums
from robustprobe.core.types import Features, HeadDesign
from robustprobe.tasks.base import Head

MOST_RANKED = 2**22
"""Similarities that are sorted at once: sorting takes about 30 bytes for each."""


@final
class GalleryHead(Head):
    """Cosine similarities (B, N) of embeddings of queries with the items of a gallery. Nothing is learnt.

    Args:
        items: embeddings (N, D) of the items, of length 1.
        labels: their labels (N, ...), which say what is relevant to a query.
        pooling: the embedding: `cls`, or `cls+patch` for class token and mean patch token, each of length 1.
    """

    items: Tensor
    labels: Tensor

    def __init__(self, items: Tensor, labels: Tensor, pooling: str = "cls") -> None:
        super().__init__()
        self.pooling = pooling
        self.register_buffer("items", items)
        self.register_buffer("labels", labels)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        similarity: Tensor = embedding(features, self.pooling) @ self.items.T
        return similarity

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        # A gallery has as many items as were stored, whatever it was made with.
        self.items, self.labels = state_dict[f"{prefix}items"], state_dict[f"{prefix}labels"]


def embedding(features: Features, pooling: str) -> Tensor:
    """Embeddings (B, D) of length 1."""
    parts = [F.normalize(features.cls, dim=1)]
    if pooling == "cls+patch":
        parts.append(F.normalize(features.patches.mean((2, 3)), dim=1))
    joined = torch.cat(parts, 1)
    return joined / math.sqrt(len(parts))


def gallery_of(parts: Iterable[tuple[Features, Tensor]], design: HeadDesign) -> GalleryHead:
    """The gallery of batches of features of its images and their labels."""
    found = [(embedding(features, design.pooling), labels) for features, labels in parts]
    items, labels = (torch.cat(column) for column in zip(*found, strict=True))
    return GalleryHead(items, labels, design.pooling)


class Ranked(NamedTuple):
    """Of each query the average precision, whether one of the first 1 and 5 items is relevant, and the average
    precision that a random ranking has in the mean, each (B,); NaN for queries without a relevant item.
    """

    average_precision: Tensor
    hit_1: Tensor
    hit_5: Tensor
    random_precision: Tensor


def ranked(similarity: Tensor, relevant: Tensor) -> Ranked:
    """What rankings by similarity (B, N) are worth, given which items are relevant (B, N).

    The rank of an item is the number of items that are at least as similar, so that of equal ones all come last: an
    encoder that answers one embedding for all images ranks nothing. Average precision is the mean, over relevant
    items, of the share of relevant ones among those at least as similar, as in scikit-learn.
    """
    some = max(1, MOST_RANKED // similarity.shape[1])
    pairs = zip(similarity.split(some), relevant.split(some), strict=True)
    return Ranked(*(torch.cat(column) for column in zip(*(_ranked(*pair) for pair in pairs), strict=True)))


def _ranked(similarity: Tensor, relevant: Tensor) -> Ranked:
    ordered, place = similarity.sort(1, descending=True)
    right, count = relevant.gather(1, place), similarity.shape[1]
    rank = _ranks(ordered)
    seen = right.cumsum(1).gather(1, rank - 1)
    total = right.sum(1)
    precision = image_sums(torch.where(right, seen.double() / rank, 0)) / total
    first = torch.where(right, rank, count + 1).amin(1)
    hit_1, hit_5 = (torch.where(total > 0, (first <= most).double(), torch.nan) for most in (1, 5))
    return Ranked(precision, hit_1, hit_5, random_precision(total, count))


def _ranks(ordered: Tensor) -> Tensor:
    """The number of values (B, N) at least as large as each, which are in descending order."""
    count = ordered.shape[1]
    place = torch.arange(1, count + 1, device=ordered.device).expand_as(ordered)
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:, :-1] = ordered[:, :-1] != ordered[:, 1:]
    return torch.where(last, place, count).flip(1).cummin(1).values.flip(1)


def random_precision(relevant: Tensor, count: int) -> Tensor:
    """Mean average precision (B,) of all rankings of `count` items of which so many (B,) are relevant; NaN for none.

    An item at rank k is relevant with probability R / N, and then each of the k - 1 before it with (R - 1) / (N - 1).
    """
    harmonic = float((1 / torch.arange(1, count + 1, dtype=torch.float64)).sum())
    others = (relevant.double() - 1) / max(1, count - 1)
    return torch.where(relevant > 0, (harmonic + others * (count - harmonic)) / count, torch.nan)
