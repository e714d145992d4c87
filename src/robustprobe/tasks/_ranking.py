"""Rankings of gallery items: the gallery as a head, and what each query contributes to the metrics."""

import math
from collections.abc import Collection, Iterable
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor

from robustprobe.core.sums import image_sums
from robustprobe.core.types import FeatureDims, Features, HeadDesign
from robustprobe.tasks._heads import Head

EASY, HARD, JUNK = 1, 2, 3
"""What an item can be to a query of the revisited protocol, beside irrelevant, 0."""
SHOWN = 5
GEM_POWER, GEM_LEAST = 3, 1e-6
MOST_RANKED = 2**22
"""Similarities that are sorted at once: sorting takes about 30 bytes for each."""


@final
class GalleryHead(Head):
    """Cosine similarities (B, N) of embeddings of queries with the items of a gallery. Nothing is learnt.

    Args:
        items: embeddings (N, D) of the items, of length 1.
        labels: their labels (N, ...), which say what is relevant to a query.
        pooling: the embedding, as in `embedding`.
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
    """Embeddings (B, D) of length 1: of `cls` the class token, of `cls+patch` class token and mean patch token, each of
    length 1, and of `gem` the generalised mean of the patch tokens.
    """
    if pooling == "gem":
        return F.normalize(generalised_mean(features.patches), dim=1)
    parts = [F.normalize(features.cls, dim=1)]
    if pooling == "cls+patch":
        parts.append(F.normalize(features.patches.mean((2, 3)), dim=1))
    joined = torch.cat(parts, 1)
    return joined / math.sqrt(len(parts))


def embedding_width(dims: FeatureDims, pooling: str) -> int:
    """Channels of an embedding."""
    return {"cls": dims.cls, "cls+patch": dims.cls + dims.patch, "gem": dims.patch}.get(pooling, dims.cls)


def generalised_mean(patches: Tensor) -> Tensor:
    """GeM (Radenovic et al. 2018, eq. 3), (B, D): the cube root of the mean cube of patch tokens (B, D, h, w).

    Values below 1e-6 are raised to it, as in the authors' program: negative ones, of which transformers have many, are
    left out.
    """
    mean: Tensor = patches.clamp(min=GEM_LEAST).pow(GEM_POWER).mean((2, 3)).pow(1 / GEM_POWER)
    return mean


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


class Revisited(NamedTuple):
    """Of each query average precision, precision of the first 10, and the average precision of a random ranking, (B,);
    NaN for queries without a relevant item.
    """

    average_precision: Tensor
    precision_10: Tensor
    random_precision: Tensor


def revisited(similarity: Tensor, codes: Tensor, relevant: Collection[int]) -> Revisited:
    """What rankings by similarity (B, N) are worth by the revisited Oxford and Paris protocol (Radenovic et al. 2018).

    Items of the codes in `relevant` are to be found, items of code 0 are not, all others are left out of the ranking.
    Average precision is the area under the precision-recall curve by trapezoids. The first 10 are fewer where the last
    relevant item comes earlier, as in the authors' program. Of equal similarities irrelevant items come first.
    """
    right = torch.stack([codes == code for code in sorted(relevant)]).any(0)
    wrong = codes == 0
    # Irrelevant items first, so that the stable sort keeps them before relevant ones of the same similarity.
    first = right.to(torch.int8).argsort(dim=1, stable=True)
    left_out = torch.where(right | wrong, similarity, -torch.inf).gather(1, first)
    order = first.gather(1, left_out.argsort(dim=1, descending=True, stable=True))
    hit, total = right.gather(1, order), right.sum(1)
    before = (wrong.gather(1, order)).cumsum(1).double()
    found = hit.cumsum(1).double()
    earlier = found - 1 + before
    start = torch.where(earlier > 0, (found - 1) / earlier.clamp(min=1), 1)
    area = image_sums(torch.where(hit, (start + found / (earlier + 1)) / 2, 0)) / total
    rank = (found + before).long()
    last = torch.where(hit, rank, 0).amax(1).clamp(min=1)
    most = last.clamp(max=10)
    early = image_sums((hit & (rank <= most[:, None])).double()) / most
    known = total > 0
    counted = (right | wrong).sum(1)
    harmonic = torch.stack([random_precision(r[None], int(n))[0] for r, n in zip(total, counted, strict=True)])
    return Revisited(
        torch.where(known, area, torch.nan),
        torch.where(known, early, torch.nan),
        (harmonic + total / counted.clamp(min=1)) / 2,
    )


def first_items(similarity: Tensor, labels: Tensor) -> Tensor:
    """Labels and similarities of the items most similar to a query (N,), (2, 5)."""
    near, which = similarity.topk(min(SHOWN, len(similarity)))
    return torch.stack([labels.to(similarity.device)[which].to(near), near])


def random_precision(relevant: Tensor, count: int) -> Tensor:
    """Mean average precision (B,) of all rankings of `count` items of which so many (B,) are relevant; NaN for none.

    An item at rank k is relevant with probability R / N, and then each of the k - 1 before it with (R - 1) / (N - 1).
    """
    harmonic = float((1 / torch.arange(1, count + 1, dtype=torch.float64)).sum())
    others = (relevant.double() - 1) / max(1, count - 1)
    return torch.where(relevant > 0, (harmonic + others * (count - harmonic)) / count, torch.nan)
