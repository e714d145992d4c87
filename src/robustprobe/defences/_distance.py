"""Distances between features, over the tokens that are protected."""

from typing import Literal

import torch
from torch import Tensor

from robustprobe.core.types import Features
from robustprobe.losses import embedding

Tokens = Literal["cls", "patch", "both"]
Layers = list[Features]
"""Features after each of the layers that are protected, the last block's last."""

COSINE = {"cls": embedding.class_cosine, "patch": embedding.patch_cosine, "both": embedding.embedding_cosine}
SQUARED = {"cls": embedding.class_distance, "patch": embedding.patch_distance, "both": embedding.embedding_distance}


def cosine_distance(a: Layers, b: Layers, tokens: Tokens) -> Tensor:
    """1 - cosine (B,), mean over layers and, where both are protected, over class token and patch tokens."""
    return _mean([COSINE[tokens](x, y) for x, y in zip(a, b, strict=True)], tokens)


def squared_distance(a: Layers, b: Layers, tokens: Tokens) -> Tensor:
    """Squared L2 distance (B,) summed over channels, mean over layers and over what is protected, as above."""
    return _mean([SQUARED[tokens](x, y) for x, y in zip(a, b, strict=True)], tokens)


def _mean(parts: list[Tensor], tokens: Tokens) -> Tensor:
    # So that a learning rate means the same whatever is protected.
    return torch.stack(parts).mean(0) / (2 if tokens == "both" else 1)


def still(layers: Layers) -> Layers:
    """Features that let no gradient through."""
    return [Features(f.cls.detach(), f.patches.detach()) for f in layers]
