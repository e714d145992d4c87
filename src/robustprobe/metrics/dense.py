"""Metrics of label maps from pixel counts summed over images."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def mean_iou(intersection: Floats, predicted: Floats, labelled: Floats) -> Floats:
    """MIoU over the last axis of summed counts (..., C): mean over classes that occur in label or prediction.

    NaN where no class occurs.
    """
    union = predicted + labelled - intersection
    present = union > 0
    iou = np.divide(intersection, union, out=np.zeros_like(union, dtype=float), where=present)
    count = present.sum(-1)
    return np.asarray(np.divide(iou.sum(-1), count, out=np.full(np.shape(count), np.nan), where=count > 0))
