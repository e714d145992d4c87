"""Losses of segmentation: logits (B, C, h, w) and labels (B, h, w) to one number per image, (B,).

Each is a mean over the valid pixels of an image, 0 where none is valid.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustprobe.losses._masked import masked_mean

_TINY = 1e-24
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class SegmentationPixels(NamedTuple):
    """Per-pixel cross-entropy, correctness and validity, each (B, P), and exp(logit - largest logit) (B, C, h, w)."""

    cross_entropy: Tensor
    correct: Tensor
    valid: Tensor
    exponentials: Tensor


def segmentation_pixels(logits: Tensor, target: Tensor, ignore_index: int) -> SegmentationPixels:
    """The quantities that segmentation losses share, from logits (B, C, h, w) and labels (B, h, w)."""
    valid = target != ignore_index
    per_pixel, exponentials, top = _CrossEntropy.apply(logits, _some_class(logits, target))
    per_pixel = torch.where(valid, per_pixel, 0)
    return SegmentationPixels(per_pixel.flatten(1), (top & valid).flatten(1), valid.flatten(1), exponentials)


def segmentation_cross_entropy(pixels: SegmentationPixels) -> Tensor:
    """Mean cross-entropy."""
    return masked_mean(pixels.cross_entropy, pixels.valid)


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy (B, h, w) of logits (B, C, h, w), its exponentials, and where the label (B, h, w) has the largest
    logit.

    All three use one subtraction of the largest logit, which `log_softmax`, `softmax` and `argmax` would each repeat:
    with 21 classes on a CPU this takes less than half of their time.
    """

    @staticmethod
    def forward(context: Any, logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        largest = logits.amax(1, keepdim=True)
        below = logits - largest
        # Counting zeros of integers is four times as fast as of floats.
        bits = below.view(_INTEGERS[below.element_size()])
        tied = int(bits.count_nonzero()) != below.numel() - largest.numel()
        of_label = below.gather(1, label[:, None])[:, 0]
        # Where logits tie, `argmax` decides, as it does in the evaluation.
        top = logits.argmax(1) == label if tied else of_label == 0
        exponentials = below.exp_()
        total = exponentials.sum(1)
        context.save_for_backward(exponentials, total, label)
        context.mark_non_differentiable(exponentials, top)
        return total.log() - of_label, exponentials, top

    @staticmethod
    def backward(context: Any, gradient: Tensor, *none: Tensor) -> tuple[Tensor, None]:
        exponentials, total, label = context.saved_tensors
        found = exponentials * (gradient / total)[:, None]
        return found.scatter_add_(1, label[:, None], -gradient[:, None]), None


def segpgd(pixels: SegmentationPixels, progress: float) -> Tensor:
    """SegPGD (Gu et al., ECCV 2022, eq. 4-5): weight 1 - lambda on correct pixels, lambda on wrong ones.

    lambda = (t - 1) / 2T for t = 1..T; `progress` is (t - 1) / T. Both parts are divided by all valid pixels.
    """
    weight = torch.where(pixels.correct, 1 - progress / 2, progress / 2)
    return masked_mean(weight * pixels.cross_entropy, pixels.valid)


def cospgd(pixels: SegmentationPixels, target: Tensor) -> Tensor:
    """CosPGD (Agnihotri et al. 2024): cross-entropy weighted by the cosine of softmax and one-hot label, detached."""
    cosine = _of_label(pixels.exponentials, target) / _length(pixels.exponentials)
    return masked_mean(cosine.flatten(1) * pixels.cross_entropy, pixels.valid)


def masked_cross_entropy(pixels: SegmentationPixels) -> Tensor:
    """SEA's mask-CE (Croce et al., ECCV 2024): cross-entropy of the correct pixels only, over all valid ones."""
    return masked_mean(pixels.correct * pixels.cross_entropy, pixels.valid)


def balanced_masked_cross_entropy(pixels: SegmentationPixels, target: Tensor, shares: Sequence[float]) -> Tensor:
    """SEA's class-balanced mask-CE: cross-entropy of the correct pixels, weighted, over all valid ones.

    The weight of a class is 1 / its share of the set's pixels (C,), and all weights add up to 1, as in the authors'
    program; without shares it is 1 / C.
    """
    weights = pixels.cross_entropy.new_tensor([1 / share for share in shares] or [1.0] * pixels.exponentials.shape[1])
    weight = (weights / weights.sum())[target.clamp(0, len(weights) - 1)].flatten(1)
    return masked_mean(pixels.correct * weight * pixels.cross_entropy, pixels.valid)


def jensen_shannon(pixels: SegmentationPixels) -> Tensor:
    """SEA's Jensen-Shannon divergence of softmax and one-hot label: at most log 2, so wrong pixels have little weight.

    With a one-hot label it depends on the probability p of the label alone:
    (-log((1 + p) / 2) + (1 - p) log 2 + p log(2p / (1 + p))) / 2.
    """
    log_p = -pixels.cross_entropy
    p = log_p.exp()
    log_mean = ((1 + p) / 2).log()
    return masked_mean((-log_mean + (1 - p) * math.log(2) + p * (log_p - log_mean)) / 2, pixels.valid)


def masked_logit(pixels: SegmentationPixels, logits: Tensor, target: Tensor) -> Tensor:
    """SEA's masked normalised logit: minus the label's logit over the norm of all logits, on correct pixels only."""
    share = _of_label(logits, target) / _length(logits)
    return -masked_mean(pixels.correct * share.flatten(1), pixels.valid)


def wrong_share(pixels: SegmentationPixels) -> Tensor:
    """Share of valid pixels that are wrong; 0 where none is valid."""
    return masked_mean((~pixels.correct).to(pixels.cross_entropy.dtype), pixels.valid)


def _length(maps: Tensor) -> Tensor:
    """L2 norm over channels, (B, h, w), with a small constant against 0: several times as fast as `norm` on a CPU."""
    return (maps.square().sum(1) + _TINY).sqrt()


def _of_label(maps: Tensor, target: Tensor) -> Tensor:
    """The channel of the label at each pixel, (B, h, w); an arbitrary channel where the label is ignored."""
    return maps.gather(1, _some_class(maps, target)[:, None])[:, 0]


def _some_class(maps: Tensor, target: Tensor) -> Tensor:
    """Labels clamped to valid classes: an arbitrary class where they are ignored."""
    return target.clamp(0, maps.shape[1] - 1)
