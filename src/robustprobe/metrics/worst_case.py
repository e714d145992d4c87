"""Of several attacks on the same images the one that counts for each image, from their rows."""

from collections.abc import Sequence

import numpy as np

from robustprobe.core.spec import Statistic
from robustprobe.metrics.dense import lowest_mean_iou
from robustprobe.metrics.statistics import GROUP, Columns, image_scores


def worst_case(statistic: Statistic, higher_is_better: bool, attacks: Sequence[Columns]) -> dict[str, np.ndarray]:
    """The columns of a statistic as they are under the worst of K attacks, image by image (N,).

    An image counts by its worst score; NaN, as for an image without labels, is no score. For mIoU, which is one of the
    whole set, the choice is that of `lowest_mean_iou`.

    Args:
        statistic: of the metric.
        higher_is_better: whether a lower score is the worse one.
        attacks: for each attack the columns of its rows, of the same images in the same order.
    """
    every = {c: np.stack([np.asarray(rows[c], dtype=float) for rows in attacks]) for c in statistic.columns}
    if statistic.kind == "mean_iou":
        choice = lowest_mean_iou(*(every[c] for c in statistic.columns))
    else:
        scores = np.stack([np.asarray(image_scores(statistic, rows), dtype=float) for rows in attacks])
        badness = np.where(np.isnan(scores), -np.inf, -scores if higher_is_better else scores)
        choice = badness.argmax(0)
    worst = {c: values[choice, np.arange(len(choice))] for c, values in every.items()}
    return worst | ({GROUP: np.asarray(attacks[0][GROUP])} if GROUP in attacks[0] else {})
