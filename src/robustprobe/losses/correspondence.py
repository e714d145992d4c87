"""Losses of matched patches: similarities, ground truth and distances of places, to one number per image, (B,)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from robustprobe.core.sums import image_sums
from robustprobe.losses.retrieval import soft_neighbour

NEAR = 0.1
"""The distance, as a share of the image's side, up to which a match is right."""


class Matches(NamedTuple):
    """For P patches of an image and M of another view: cosines (B, P, M), the distance (B, P, M) of each of these from
    where the centre of the patch is seen, as a share of the side, and whether it is seen there at all (B, P).
    """

    similarity: Tensor
    distance: Tensor
    seen: Tensor


def patch_matches(patches: Tensor, other: Tensor, points: Tensor, seen: Tensor) -> Matches:
    """Similarities and distances of patches (B, D, h, w) and those of another view (B, D, k, l).

    Args:
        points: (B, 2, h, w) x and y from 0 to 1 where the centre of each patch is in the other view.
        seen: (B, h, w) whether it can be seen there.
    """
    first, second = (F.normalize(part.flatten(2), dim=1) for part in (patches, other))
    # Image by image: a product of batches may round by the number of images.
    similarity = torch.stack([a.T @ b for a, b in zip(first, second, strict=True)])
    gap = points.flatten(2).transpose(1, 2)[:, :, None] - centres(other.shape[-2], other.shape[-1]).to(points)
    return Matches(similarity, gap.square().sum(3).sqrt(), seen.flatten(1))


def centres(height: int, width: int) -> Tensor:
    """X and y (h * w, 2) from 0 to 1 of the centres of patches."""
    y, x = ((torch.arange(count) + 0.5) / count for count in (height, width))
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], 1)


def correct(matches: Matches, near: float = NEAR) -> Tensor:
    """Share (B,) of the seen patches whose most similar patch is near its place; NaN where none is seen."""
    found = matches.distance.gather(2, matches.similarity.argmax(2, keepdim=True))[:, :, 0]
    return _mean(matches, (found <= near).double())


def soft_mistake(matches: Matches) -> Tensor:
    """Mean log-odds that a patch drawn by exp(cosine / 0.07) is a wrong match (Frosst et al. 2019, eq. 1); 0 for none.

    The nearest patch of the other view counts as right, however far away it is.
    """
    right = (matches.distance <= NEAR) | (matches.distance == matches.distance.amin(2, keepdim=True))
    each = soft_neighbour(matches.similarity.flatten(0, 1), right.flatten(0, 1))
    return _or_0(matches, each.view(matches.seen.shape))


def mean_mistake(matches: Matches) -> Tensor:
    """Minus the mean cosine with the nearest patch of the other view; 0 where no patch is seen."""
    place = matches.distance.argmin(2, keepdim=True)
    return -_or_0(matches, matches.similarity.gather(2, place)[:, :, 0])


def random_share(matches: Matches, near: float = NEAR) -> Tensor:
    """The share (B,) that a random patch of the other view gets right; NaN where none is seen."""
    return _mean(matches, (matches.distance <= near).double().mean(2))


def best_share(matches: Matches, near: float = NEAR) -> Tensor:
    """The share (B,) that some patch of the other view would get right; NaN where none is seen."""
    return _mean(matches, (matches.distance.amin(2) <= near).double())


def _mean(matches: Matches, values: Tensor) -> Tensor:
    """Mean (B,) of values (B, P) over the seen patches."""
    return image_sums(torch.where(matches.seen, values, 0)) / matches.seen.sum(1)


def _or_0(matches: Matches, values: Tensor) -> Tensor:
    """The same with 0 where no patch is seen; values that are not finite stay so."""
    return torch.where(matches.seen.any(1), _mean(matches, values), 0)
