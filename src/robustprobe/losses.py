"""Losses per image. Every function returns one finite number an image, shape (B,), whatever its input."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from robustprobe.types import Features

SILOG_MEAN_WEIGHT = 0.15
_TINY = 1e-8


class SegmentationPixels(NamedTuple):
    """Per-pixel cross-entropy, correctness and validity, each (B, P)."""

    cross_entropy: Tensor
    correct: Tensor
    valid: Tensor


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of logits (B, C) with labels (B,)."""
    return F.cross_entropy(logits, target, reduction="none")


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared L2 distance (B,) over all but the batch axis."""
    return (a - b).flatten(1).square().sum(1)


def embedding_distance(features: Features, clean: Features) -> Tensor:
    """EmbedAttack's objective (Kowalczuk et al. 2024): squared L2 distance of the embeddings, (B,).

    The class token counts as much as all patch tokens together, so that heads on either meet the attack.
    """
    tokens = features.patches.shape[-2] * features.patches.shape[-1]
    return squared_distance(features.cls, clean.cls) + squared_distance(features.patches, clean.patches) / tokens


def cosine_distance(features: Features, clean: Features) -> Tensor:
    """1 - cosine of the class tokens, (B,): EmbedAttack as used inside DeACL (Zhang et al. 2022)."""
    return 1 - F.cosine_similarity(features.cls, clean.cls, dim=-1)


def segmentation_pixels(logits: Tensor, target: Tensor, ignore_index: int) -> SegmentationPixels:
    """What every segmentation loss is made of, from logits (B, C, h, w) and labels (B, h, w)."""
    per_pixel = F.cross_entropy(logits, target, reduction="none", ignore_index=ignore_index).flatten(1)
    valid = (target != ignore_index).flatten(1)
    correct = (logits.argmax(1) == target).flatten(1) & valid
    return SegmentationPixels(per_pixel, correct, valid)


def segmentation_cross_entropy(pixels: SegmentationPixels) -> Tensor:
    """Mean cross-entropy over the valid pixels of each image; 0 where there is none."""
    return masked_mean(pixels.cross_entropy, pixels.valid)


def segpgd(pixels: SegmentationPixels, step: int, steps: int) -> Tensor:
    """SegPGD (Gu et al., ECCV 2022, eq. 4-5): weight 1 - lambda on correct pixels, lambda on wrong ones.

    lambda = (t - 1) / 2T for t = 1..T; `step` is t - 1. Both parts are divided by all valid pixels of the image.
    """
    share = step / (2 * steps)
    weight = torch.where(pixels.correct, 1 - share, share)
    return masked_mean(weight * pixels.cross_entropy, pixels.valid)


def scale_invariant_log(depth: Tensor, target: Tensor) -> Tensor:
    """Scale-invariant log loss (Eigen et al. 2014) with its variance term, on depths (B, h, w) in metres.

    sqrt(Var[g] + 0.15 E[g]^2) with g = log prediction - log target over the pixels with target > 0; 0 with no pixel.
    """
    valid = target > 0
    g = torch.where(valid, depth.clamp(min=_TINY).log() - torch.where(valid, target, 1).log(), 0).flatten(1)
    mask = valid.flatten(1)
    mean = masked_mean(g, mask)
    variance = masked_mean((g - mean[:, None]).square(), mask)
    return (variance + SILOG_MEAN_WEIGHT * mean.square() + _TINY).sqrt()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the last axis where `mask` holds, (B,); 0 where it holds nowhere."""
    return torch.where(mask, values, 0).sum(1) / mask.sum(1).clamp(min=1)
