"""Losses of logits (B, C, h, w) with labels (B, h, w): means over the valid pixels of each image, 0 where none is."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from robustprobe.losses._masked import masked_mean

_TINY = 1e-24


class SegmentationPixels(NamedTuple):
    """Per-pixel cross-entropy, correctness and validity, each (B, P)."""

    cross_entropy: Tensor
    correct: Tensor
    valid: Tensor


def segmentation_pixels(logits: Tensor, target: Tensor, ignore_index: int) -> SegmentationPixels:
    """What segmentation losses are made of, from logits (B, C, h, w) and labels (B, h, w)."""
    per_pixel = F.cross_entropy(logits, target, reduction="none", ignore_index=ignore_index).flatten(1)
    valid = (target != ignore_index).flatten(1)
    correct = _is_top(logits.detach(), target).flatten(1) & valid
    return SegmentationPixels(per_pixel, correct, valid)


def segmentation_cross_entropy(pixels: SegmentationPixels) -> Tensor:
    """Mean cross-entropy."""
    return masked_mean(pixels.cross_entropy, pixels.valid)


def segpgd(pixels: SegmentationPixels, progress: float) -> Tensor:
    """SegPGD (Gu et al., ECCV 2022, eq. 4-5): weight 1 - lambda on correct pixels, lambda on wrong ones.

    lambda = (t - 1) / 2T for t = 1..T; `progress` is (t - 1) / T. Both parts are divided by all valid pixels.
    """
    weight = torch.where(pixels.correct, 1 - progress / 2, progress / 2)
    return masked_mean(weight * pixels.cross_entropy, pixels.valid)


def cospgd(pixels: SegmentationPixels, logits: Tensor, target: Tensor) -> Tensor:
    """CosPGD (Agnihotri et al. 2024): cross-entropy weighted by the cosine of softmax and one-hot label, detached."""
    chances = logits.detach().softmax(1)
    cosine = _of_label(chances, target) / _length(chances)
    return masked_mean(cosine.flatten(1) * pixels.cross_entropy, pixels.valid)


def masked_cross_entropy(pixels: SegmentationPixels) -> Tensor:
    """SEA's mask-CE (Croce et al., ECCV 2024): cross-entropy of the correct pixels only, over all valid ones."""
    return masked_mean(pixels.correct * pixels.cross_entropy, pixels.valid)


def jensen_shannon(pixels: SegmentationPixels) -> Tensor:
    """SEA's Jensen-Shannon divergence of softmax and one-hot label: at most log 2, so wrong pixels weigh little.

    Against a one-hot label it depends on the chance p of the label alone:
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


def _is_top(logits: Tensor, target: Tensor) -> Tensor:
    """Whether the label has the largest logit, as `argmax` sees it, (B, h, w).

    On a CPU `argmax` over channels takes 25 times as long as `amax`, so it is asked only where there are ties.
    """
    top = logits.amax(1, keepdim=True) if logits.device.type == "cpu" else None
    if top is None or int((equal := logits == top).sum()) != top.numel():
        return logits.argmax(1) == target
    return _of_label(equal, target)


def _length(maps: Tensor) -> Tensor:
    """L2 norm over channels, (B, h, w), a little above 0: several times faster on a CPU than `norm`."""
    return (maps.square().sum(1) + _TINY).sqrt()


def _of_label(maps: Tensor, target: Tensor) -> Tensor:
    """The channel of the label at each pixel, (B, h, w); that of some class where the label is ignored."""
    return maps.gather(1, target.clamp(0, maps.shape[1] - 1)[:, None])[:, 0]
