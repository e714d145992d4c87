"""Metrics of label maps from pixel counts summed over images."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SWEEPS = 100
LEAST_GAIN = 1e-9


def mean_iou(intersection: Floats, predicted: Floats, labelled: Floats) -> Floats:
    """MIoU over the last axis of summed counts (..., C): mean over classes that occur in label or prediction.

    NaN where no class occurs.
    """
    union = predicted + labelled - intersection
    present = union > 0
    iou = np.divide(intersection, union, out=np.zeros_like(union, dtype=float), where=present)
    count = present.sum(-1)
    return np.asarray(np.divide(iou.sum(-1), count, out=np.full(np.shape(count), np.nan), where=count > 0))


def lowest_mean_iou(intersection: Floats, predicted: Floats, labelled: Floats) -> NDArray[np.int64]:
    """Which of K attacks on each of N images together give a low mIoU, (N,): greedy, as in SEA (Croce et al. 2024).

    Starts from the best single attack. Then one image after another takes the attack with which the mIoU of the set is
    lowest, in sweeps over all images until none gains.

    Args:
        intersection: pixel counts (K, N, C), like the other two.
    """
    counts = np.stack([intersection, predicted, labelled])
    images = counts.shape[2]
    alone = mean_iou(*counts.sum(2))
    if np.isnan(alone).any():
        return np.zeros(images, dtype=np.int64)
    choice = np.full(images, int(alone.argmin()), dtype=np.int64)
    total = counts[:, choice, np.arange(images)].sum(1)
    lowest = float(mean_iou(*total))
    for _ in range(SWEEPS):
        before = lowest
        for image in range(images):
            tried = total[:, None] - counts[:, choice[image], image][:, None] + counts[:, :, image]
            scores = mean_iou(*tried)
            if scores[best := int(scores.argmin())] < lowest - LEAST_GAIN:
                choice[image], total, lowest = best, tried[:, best], float(scores[best])
        if before - lowest <= LEAST_GAIN:
            break
    return choice
