"""What a constant answer scores: of each record, or for older ones from the labels that rows hold."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pyarrow as pa

from robustprobe.core.errors import UserError
from robustprobe.report.tables.board import TaskOnDatasetKey, benchmark_key
from robustprobe.results.union import Found


def chances(found: Iterable[Found]) -> dict[TaskOnDatasetKey, float]:
    """The score of the best constant answer, for each choice of images where it is known.

    Under a patch pixels do not count, so that the records of patches hold another level: that of the rest of the image.
    """
    levels: dict[TaskOnDatasetKey, float] = {}
    for key, one in {benchmark_key(f.record): f for f in found if not f.record.is_patch}.items():
        level = one.record.chance if one.record.chance is not None else _from_rows(one)
        if level is not None:
            levels[key] = level
    return levels


def _from_rows(found: Found) -> float | None:
    """For records before schema 3, which do not say."""
    statistic = found.record.statistic
    measure = MEASURES.get(statistic.kind) if statistic else None
    if measure is None:
        return None
    try:
        return measure(found.store.rows(found.record.fingerprint))
    except (UserError, KeyError, pa.ArrowException):
        return None


def _commonest_share(rows: pa.Table) -> float:
    counts = np.unique(rows["label"].to_numpy(), return_counts=True)[1]
    return float(counts.max() / counts.sum())


def _commonest_iou(rows: pa.Table) -> float:
    """MIoU of one class everywhere: the share of its pixels, and nothing for the other classes that occur."""
    pixels = np.asarray(rows["labelled"].combine_chunks().flatten()).reshape(rows.num_rows, -1).sum(0)
    return float(pixels.max() / pixels.sum() / (pixels > 0).sum())


MEASURES: Mapping[str, Callable[[pa.Table], float]] = {"proportion": _commonest_share, "mean_iou": _commonest_iou}
