"""Distances between features, over the tokens that are protected."""

from typing import Literal

import torch
from torch import Tensor

from robustprobe.core.types import Features
from robustprobe.losses import embedding

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


def still(layers: Layers) -> Layers:
    """Features that let no gradient through."""
    return [Features(f.cls.detach(), f.patches.detach()) for f in layers]
