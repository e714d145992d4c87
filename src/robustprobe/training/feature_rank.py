"""Reduced feature rank: features are projected onto the few directions that attacks move least.

A linear head fitted on natural images has large weights along directions in which features hardly vary, and an attack
moves features in these directions as far as in any other. Let S be the covariance of features of natural images, and
G = E[J J'] the covariance of features under unit noise in the pixels, J being their derivative by the pixels. The
directions w with the largest ratio of both solve S w = l G w. The first K of them, W, are kept, and features f become
their best linear estimate from W' f: mean + S W (W' S W)^-1 W' (f - mean).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustprobe.core.errors import UserError
from robustprobe.core.fast_linear import fast_linear
from robustprobe.core.types import Features
from robustprobe.encoders import Encoder
from robustprobe.encoders.file import LowRankEncoder
from robustprobe.encoders.timm import TimmMap, TimmViT

PASS = 16
# Images for G: each takes a backward pass for every channel of both kinds of tokens.
SENSED = 32
# Added to G, as a share of its mean diagonal: G is estimated from few images and may be singular.
FLOOR = 1e-4


class TokenStatistics(NamedTuple):
    """Statistics of one kind of tokens: mean (D,), and covariances (D, D) over natural images and under pixel noise."""

    mean: Tensor
    natural: Tensor
    moved: Tensor


def reduce_rank(encoder: Encoder, images: Tensor, count: int) -> LowRankEncoder:
    """The encoder with a class token of rank `count` and patch tokens of rank `count`.

    Args:
        images: natural images (N, 3, H, W) for the statistics; a few hundred are enough.

    Raises:
        UserError: a rank above the number of channels, or an encoder that is not one of timm's models.
    """
    widths = encoder.card.widths
    if not isinstance(encoder, TimmViT | TimmMap):
        raise UserError(f"{encoder.card.name} is not a model of timm; the feature rank can be reduced for these only.")
    if not 0 < count <= min(widths):
        raise UserError(
            f"{encoder.card.name} has {min(widths)} channels; the feature rank must be 1 to {min(widths)}, not {count}."
        )
    found = LowRankEncoder(encoder, count)
    cls, patch = spreads(encoder, images)
    _fill(found.cls, cls, count)
    _fill(found.patch, patch, count)
    found.to(images.device).freeze()
    return found


@torch.no_grad()
def _fill(maps: nn.Sequential, spread: TokenStatistics, count: int) -> None:
    squeeze, stretch = feature_rank(spread, count)
    maps.load_state_dict(
        {"0.weight": squeeze, "1.weight": stretch, "1.bias": spread.mean - stretch @ squeeze @ spread.mean}
    )


def feature_rank(spread: TokenStatistics, count: int) -> tuple[Tensor, Tensor]:
    """W' (count, D): the directions of the largest ratio of natural variance to noise, scaled to variance 1.

    Returns:
        W', and S W (D, count), which estimates features from W' f.
    """
    width = len(spread.mean)
    natural, moved = spread.natural.double(), spread.moved.double()
    level = (FLOOR * moved.trace() / width).clamp(min=torch.finfo().tiny)
    root = torch.linalg.inv(torch.linalg.cholesky(moved + level * torch.eye(width).to(moved)))
    vectors = root.T @ torch.linalg.eigh(root @ natural @ root.T)[1][:, -count:].flip(1)
    variance = ((natural @ vectors) * vectors).sum(0).clamp(min=torch.finfo().tiny)
    squeeze: Tensor = (vectors / variance.sqrt()).T
    return squeeze.float(), (natural @ squeeze.T).float()


def spreads(encoder: Encoder, images: Tensor) -> tuple[TokenStatistics, TokenStatistics]:
    """Statistics of class tokens, and of patch tokens."""
    with torch.no_grad():
        seen = [tokens(encoder(part)) for part in images.split(PASS)]
    moved = movement(encoder, images[:SENSED])
    kinds = [torch.cat(kind) for kind in zip(*seen, strict=True)]
    cls, patch = (TokenStatistics(k.mean(0), torch.cov(k.T), m) for k, m in zip(kinds, moved, strict=True))
    return cls, patch


def tokens(features: Features) -> tuple[Tensor, Tensor]:
    """Class tokens (B, D), and patch tokens (B h w, D)."""
    return features.cls, features.patches.movedim(1, -1).flatten(0, 2)


def movement(encoder: Encoder, images: Tensor) -> list[Tensor]:
    """E[J J'] (D, D) of the class token, and of a patch token; J is the derivative by the pixels.

    Patch tokens are summed with random signs, so that one backward pass per channel serves all of them.
    """
    generator = torch.Generator().manual_seed(0)
    sums = [torch.zeros(width, width, device=images.device) for width in encoder.card.widths]
    with torch.enable_grad(), fast_linear():
        for part in images.split(PASS):
            pixels = part.clone().requires_grad_(True)
            features = encoder(pixels)
            signs = (torch.rand(features.patches.shape[2:], generator=generator) < 0.5).to(pixels) * 2 - 1
            outputs = features.cls.sum(0), (features.patches * signs).sum((0, 2, 3)) / signs.numel() ** 0.5
            for total, output in zip(sums, outputs, strict=True):
                rows = [torch.autograd.grad(value, pixels, retain_graph=True)[0].flatten() for value in output]
                jacobian = torch.stack(rows)
                total += jacobian @ jacobian.T
    return [total / len(images) for total in sums]
