"""Distances between the features of clean and perturbed images, one number per image, (B,)."""

import torch.nn.functional as F
from torch import Tensor

from robustprobe.core.sums import image_sums
from robustprobe.core.types import Features


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared L2 distance (B,) over all but the batch axis."""
    return image_sums((a - b).square())


def patch_distance(features: Features, clean: Features) -> Tensor:
    """Squared L2 distance (B,) of the patch tokens, mean over tokens."""
    tokens = features.patches.shape[-2] * features.patches.shape[-1]
    return squared_distance(features.patches, clean.patches) / tokens


def class_distance(features: Features, clean: Features) -> Tensor:
    """Squared L2 distance (B,) of the class tokens."""
    return squared_distance(features.cls, clean.cls)


def embedding_distance(features: Features, clean: Features) -> Tensor:
    """EmbedAttack's objective (Kowalczuk et al. 2024): squared L2 distance of the embeddings, (B,).

    The class token has the same weight as the mean over all patch tokens, so that the attack affects heads on either.
    """
    return class_distance(features, clean) + patch_distance(features, clean)


def class_cosine(features: Features, clean: Features) -> Tensor:
    """1 - cosine of the class tokens, (B,): EmbedAttack as used inside DeACL (Zhang et al. 2022)."""
    return 1 - F.cosine_similarity(features.cls, clean.cls, dim=-1)


def patch_cosine(features: Features, clean: Features) -> Tensor:
    """1 - cosine of the patch tokens, mean over tokens, (B,)."""
    return 1 - F.cosine_similarity(features.patches, clean.patches, dim=1).flatten(1).mean(1)


def embedding_cosine(features: Features, clean: Features) -> Tensor:
    """Sum of the cosine distances of class and patch tokens, (B,)."""
    return class_cosine(features, clean) + patch_cosine(features, clean)
