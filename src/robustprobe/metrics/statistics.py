"""Statistics of rows of images: the value, its interval, and what each image contributes to it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustprobe.core.spec import Statistic
from robustprobe.metrics.dense import mean_iou
from robustprobe.metrics.intervals import Estimate, bootstrap, wilson
from robustprobe.metrics.rankings import micro_average_precision

Floats = NDArray[np.float64]
GROUP = "group"
"""The column of rows that names groups of images which are not independent, such as the frames of one video."""
DRIFT = "embedding_drift"
"""The column of rows that says how far a corruption moved the embedding: 1 - cosine of clean and corrupted class
feature.
"""
DRIFT_METRIC = "embedding drift"
PATCH = "patch"
"""The column of rows that holds top, left, height and width of a patch in pixels of the image."""
CLEAN_THERE, CONTROL_THERE = "unpatched_", "noise_patch_"
"""Before the names of columns: the image without the patch, and with one of noise in its place, at the same pixels."""
WITHOUT_PATCH, NOISE_PATCH = "without patch", "with a patch of noise"
"""After the name of a metric."""
Columns = Mapping[str, NDArray[Any]]
Sums = Mapping[str, Floats]


class Parts(NamedTuple):
    """A statistic in two steps: what each image contributes, (N,) or (N, C), and the number that sums (..., C) make."""

    contributions: Columns
    value: Callable[[Sums], Floats]


def parts(statistic: Statistic, rows: Columns) -> Parts:
    """The two steps of a statistic of rows. Raises KeyError where a column is missing."""
    columns = {name: rows[name] for name in statistic.columns}
    if statistic.kind in ("mean", "proportion"):
        values = np.asarray(columns[statistic.columns[0]], dtype=float)
        counted = np.isfinite(values)
        return Parts({"value": np.where(counted, values, 0), "counted": counted.astype(float)}, _mean)
    if statistic.kind == "ratio":
        above, below = statistic.columns
        return Parts(columns, lambda sums: _ratio(_summed(sums[above]), _summed(sums[below])))
    if statistic.kind == "micro_ap":
        similarity, right, counted = (np.asarray(columns[name], dtype=float) for name in statistic.columns)
        # A ranking over all images is no sum over them: what is summed is how often each image was drawn.
        drawn = np.eye(len(similarity))
        return Parts({"drawn": drawn}, lambda sums: micro_average_precision(similarity, right, counted, sums["drawn"]))
    return Parts(columns, lambda sums: mean_iou(*(sums[name] for name in statistic.columns)))


def estimate(statistic: Statistic, rows: Columns) -> Estimate:
    """The value of a statistic with its 95 % interval: Wilson's for a proportion, else a bootstrap over images.

    Where rows have a column `group` with two values or more, groups are drawn, not images.
    """
    groups = rows.get(GROUP)
    if groups is not None and len(np.unique(groups)) > 1:
        return bootstrap(*parts(statistic, rows), groups=groups)
    if statistic.kind == "proportion":
        correct = np.asarray(rows[statistic.columns[0]], dtype=float)
        counted = correct[np.isfinite(correct)]
        return wilson(int(counted.sum()), len(counted))
    return bootstrap(*parts(statistic, rows))


def drift_estimates(rows: Columns) -> dict[str, Estimate]:
    """The mean embedding drift of rows, under its name; nothing where it was not measured."""
    return {DRIFT_METRIC: estimate(Statistic(kind="mean", columns=(DRIFT,)), rows)} if DRIFT in rows else {}


def patch_estimates(metric: str, statistic: Statistic, rows: Columns) -> dict[str, Estimate]:
    """A metric without the patch and with one of noise, over the pixels outside of it; nothing where there is none."""
    found = {}
    for ahead, name in ((CLEAN_THERE, WITHOUT_PATCH), (CONTROL_THERE, NOISE_PATCH)):
        columns = {column: rows[f"{ahead}{column}"] for column in statistic.columns if f"{ahead}{column}" in rows}
        if len(columns) == len(statistic.columns):
            grouped = {GROUP: rows[GROUP]} if GROUP in rows else {}
            found[f"{metric} {name}"] = estimate(statistic, columns | grouped)
    return found


def image_scores(statistic: Statistic | None, rows: Mapping[str, Any], ending: str = "") -> Floats | None:
    """What each image scores, (N,): its value, its ratio, or the mean IoU of the classes on it; NaN where it has none.

    Args:
        statistic: of the headline metric.
        rows: columns by name, of N values each.
        ending: what names of columns end in, such as `_8bit`.

    Returns:
        None where no statistic is known or a column is missing.
    """
    if statistic is None or any(f"{name}{ending}" not in rows for name in statistic.columns):
        return None
    columns = [np.asarray(rows[f"{name}{ending}"], dtype=float) for name in statistic.columns]
    if statistic.kind in ("mean", "proportion"):
        return columns[0]
    if statistic.kind == "ratio":
        above, below = (column.reshape(len(column), -1).sum(1) for column in columns)
        return _ratio(above, below)
    return np.asarray(mean_iou(*columns), dtype=float)


def _mean(sums: Sums) -> Floats:
    return _ratio(sums["value"], sums["counted"])


def _ratio(above: Floats, below: Floats) -> Floats:
    """`above / below`, NaN where nothing counts."""
    above = np.asarray(above, dtype=float)
    return np.divide(above, below, out=np.full_like(above, np.nan), where=np.asarray(below) != 0)


def _summed(sums: Floats) -> Floats:
    return np.asarray(sums.sum(-1))
