"""What guessing scores: always the commonest class, by the labels that rows hold."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from robustprobe.core.errors import UserError
from robustprobe.report.tables.board import TaskOnDatasetKey, benchmark_key
from robustprobe.results.union import Found, FoundGroup


def chances(found: Iterable[Found], groups: Sequence[FoundGroup]) -> dict[TaskOnDatasetKey, float]:
    """The score of always naming the commonest class, for each choice of images where it is known.

    Without rows it is one over the number of classes. There is none for depth: rows hold no depths.
    """
    classes = {g.group.dataset: len(c) for g in groups if (c := g.group.classes.get("classification"))}
    levels: dict[TaskOnDatasetKey, float] = {}
    for key, one in {benchmark_key(f.record): f for f in found}.items():
        record = one.record
        level = _level(one)
        if level is None and record.task == "classification" and record.dataset in classes:
            level = 1 / classes[record.dataset]
        if level is not None:
            levels[key] = level
    return levels


def _level(found: Found) -> float | None:
    measure = MEASURES.get(found.record.task)
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


MEASURES: Mapping[str, Callable[[pa.Table], float]] = {
    "classification": _commonest_share,
    "segmentation": _commonest_iou,
}
