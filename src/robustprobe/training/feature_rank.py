"""Features in few directions, those that attacks move least: what a head cannot read, nobody can turn against it.

A linear head fitted on natural images has large weights along directions of features that hardly vary, and an attack
moves these as far as any. With S the covariance of natural features and G = E[J J'] what a unit of noise in the pixels
moves, the directions w that vary most for what they are moved solve S w = l G w. The first of these, W, are kept, and
features become the best linear guess of themselves from W' f: mean + S W (W' S W)^-1 W' (f - mean).
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
# Images whose gradients are taken: a backward pass for every channel of both kinds of tokens.
SENSED = 32
# Directions along which nothing was seen to move count as moved by this share of the mean.
FLOOR = 1e-4


class TokenStatistics(NamedTuple):
    """Of one kind of tokens: mean (D,), covariance (D, D) over natural images, and movement under noise (D, D)."""

    mean: Tensor
    natural: Tensor
    moved: Tensor


def reduce_rank(encoder: Encoder, images: Tensor, count: int) -> LowRankEncoder:
    """The encoder, its class token in `count` directions and its patch tokens in as many.

    Args:
        images: natural images (N, 3, H, W) that variances are measured on; a few hundred are enough.

    Raises:
        UserError: more directions than the encoder has channels, or an encoder that is none of timm's models.
    """
    widths = encoder.card.widths
    if not isinstance(encoder, TimmViT | TimmMap):
        raise UserError(f"{encoder.card.name} is no model of timm, and only these can be narrowed.")
    if not 0 < count <= min(widths):
        raise UserError(f"{encoder.card.name} has {min(widths)} channels; it cannot be narrowed to {count} directions.")
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
    """W' (count, D), the directions of largest variance for what they are moved, each of variance 1.

    Returns:
        also S W (D, count), which guesses features from them.
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
    """Of class tokens, and of patch tokens."""
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
    """E[J J'] (D, D) of the class token, and of a patch token, J being its derivative by the pixels.

    Patch tokens are summed with random signs, so that a pass serves all of them.
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
