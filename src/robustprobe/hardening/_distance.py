"""Distances between features, over the tokens that are protected."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from robustprobe.losses import embedding
from robustprobe.types import Features

Protect = Literal["cls", "patch", "both"]
Layers = list[Features]
"""Features after each of the layers that are protected, the last block's last."""

COSINE = {"cls": embedding.class_cosine, "patch": embedding.patch_cosine, "both": embedding.embedding_cosine}
SQUARED = {"cls": embedding.class_distance, "patch": embedding.patch_distance, "both": embedding.embedding_distance}


def cosine_distance(a: Layers, b: Layers, protect: Protect) -> Tensor:
    """1 - cosine (B,), mean over layers and, where both are protected, over class token and patch tokens."""
    return _mean([COSINE[protect](x, y) for x, y in zip(a, b, strict=True)], protect)


def squared_distance(a: Layers, b: Layers, protect: Protect) -> Tensor:
    """Squared L2 distance (B,) summed over channels, mean over layers and over what is protected, as above."""
    return _mean([SQUARED[protect](x, y) for x, y in zip(a, b, strict=True)], protect)


def _mean(parts: list[Tensor], protect: Protect) -> Tensor:
    # So that a learning rate means the same whatever is protected.
    return torch.stack(parts).mean(0) / (2 if protect == "both" else 1)


class Scale(NamedTuple):
    """Linear maps (D, D) of class tokens and of patch tokens after which the teacher's channels are alike."""

    cls: Tensor
    patch: Tensor

    def __call__(self, features: Features) -> Features:
        patches = torch.einsum("bdhw,de->behw", features.patches, self.patch.to(features.patches))
        return Features(features.cls @ self.cls.to(features.cls), patches)


def fit_scale(features: Features, kind: Literal["none", "std", "whiten"], shrinkage: float) -> Scale:
    """The map for features of many images, so that two strangers are about 2 apart in mean squared distance a channel.

    Args:
        features: of the teacher, cls (N, D) and patches (N, D, h, w).
        kind: `none` divides all channels by one number, `std` each by its own standard deviation, `whiten` also takes
            out their correlations.
        shrinkage: share of the mean variance added to every variance, so that rare directions are not overrated.
    """
    patches = features.patches.permute(0, 2, 3, 1).flatten(0, 2)
    return Scale(*(_equaliser(tokens.double(), kind, shrinkage).float() for tokens in (features.cls, patches)))


def _equaliser(tokens: Tensor, kind: str, shrinkage: float) -> Tensor:
    covariance = torch.cov(tokens.T)
    mean = covariance.diagonal().mean().clamp(min=torch.finfo(tokens.dtype).tiny)
    if kind == "none":
        return torch.eye(len(covariance), dtype=tokens.dtype) / mean.sqrt()
    if kind == "std":
        return torch.diag((covariance.diagonal() + shrinkage * mean).rsqrt())
    values, vectors = torch.linalg.eigh(covariance)
    whitening: Tensor = vectors @ torch.diag((values.clamp(min=0) + shrinkage * mean).rsqrt()) @ vectors.T
    return whitening


def scaled(layers: Layers, scales: Sequence[Scale]) -> Layers:
    """Features of each layer on its own scale."""
    return [scale(features) for features, scale in zip(layers, scales, strict=True)]


def per_channel(layers: Layers, protect: Protect) -> float:
    """Channels that `squared_distance` sums over, so that dividing by it gives a mean."""
    width = layers[-1].cls.shape[1] if protect == "cls" else layers[-1].patches.shape[1]
    return float(width)


def still(layers: Layers) -> Layers:
    """Features that let no gradient through."""
    return [Features(f.cls.detach(), f.patches.detach()) for f in layers]
