"""Scores of images from the rows of a stored cell."""

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from robustprobe.results.store import Store
from robustprobe.tasks import Task

ROWS = 2**16
Floats = NDArray[np.float64]


def row_scores(store: Store, fingerprint: str, task: Task) -> list[Floats]:
    """Scores (N,) of a cell's images, as `Task.score`: as counted, after rounding to 8 bits, a second head's if any."""
    # A part at a time: as numbers of Python, the pixel counts of a million images would not fit into memory.
    parts = [_part_scores(part, task) for part in store.rows(fingerprint).to_batches(max_chunksize=ROWS)]
    return [np.concatenate(some) for some in zip(*parts, strict=True)]


def _part_scores(rows: pa.RecordBatch, task: Task) -> list[Floats]:
    columns = {name: _tensor(rows.column(name)) for name in rows.schema.names if name != "id"}
    views = [
        {name: values for name, values in columns.items() if not name.endswith("_8bit")},
        {name.removesuffix("_8bit"): values for name, values in columns.items() if name.endswith("_8bit")},
        {name.removeprefix("knn_"): values for name, values in columns.items() if name.startswith("knn_")},
    ]
    return [task.score(view).double().numpy() for view in views if view]


def _tensor(column: pa.Array) -> torch.Tensor:
    if pa.types.is_list(column.type):
        return torch.tensor(np.asarray(column.flatten())).reshape(len(column), -1)
    return torch.tensor(column.to_numpy(zero_copy_only=False))
