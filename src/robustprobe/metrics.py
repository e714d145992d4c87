"""Metrics from sums over images: what one image contributes, and the number a set of contributions makes."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustprobe.sums import image_sums

Floats = NDArray[np.float64]


def confusion_counts(prediction: Tensor, target: Tensor, classes: int, ignore_index: int) -> dict[str, Tensor]:
    """Per image and class: `intersection`, `predicted` and `labelled` pixel counts, each (B, C) int64.

    Args:
        prediction: class map (B, h, w).
        target: label map (B, h, w); pixels equal to `ignore_index` count nowhere.
    """
    valid = target != ignore_index
    return {
        "intersection": _counts(target, valid & (prediction == target), classes),
        "predicted": _counts(prediction, valid, classes),
        "labelled": _counts(target, valid, classes),
    }


def _counts(labels: Tensor, where: Tensor, classes: int) -> Tensor:
    image = torch.arange(len(labels), device=labels.device)[:, None, None].expand_as(labels)
    flat = (image * classes + labels)[where]
    return torch.bincount(flat, minlength=len(labels) * classes).reshape(len(labels), classes)


def mean_iou(intersection: Floats, predicted: Floats, labelled: Floats) -> Floats:
    """MIoU over the last axis of summed counts (..., C): mean over classes that occur in label or prediction.

    NaN where no class occurs.
    """
    union = predicted + labelled - intersection
    present = union > 0
    iou = np.divide(intersection, union, out=np.zeros_like(union, dtype=float), where=present)
    count = present.sum(-1)
    return np.asarray(np.divide(iou.sum(-1), count, out=np.full(np.shape(count), np.nan), where=count > 0))


def depth_errors(depth: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Per image RMSE (m), absolute relative error and share of pixels within a factor 1.25, each (B,).

    Pixels with target <= 0 have no valid depth and count nowhere; an image without any gives NaN.
    """
    valid = (target > 0).flatten(1)
    p, t = depth.flatten(1).double(), torch.where(target > 0, target, 1).flatten(1).double()
    count = valid.sum(1)

    def mean(values: Tensor) -> Tensor:
        return image_sums(torch.where(valid, values, 0)) / count

    ratio = torch.maximum(p / t, t / p)
    return {
        "rmse": mean((p - t).square()).sqrt(),
        "abs_rel": mean((p - t).abs() / t),
        "delta1": mean((ratio < 1.25).double()),
    }
