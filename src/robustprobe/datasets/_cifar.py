"""The official archives of CIFAR: Python pickles and binary rows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robustprobe.core.errors import UserError
from robustprobe.datasets._pickles import ArrayUnpickler
from robustprobe.datasets._tables import ImageTable, TableEdition, all_or_none, pixel_table

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32


def pickles(folder: Path, names: Sequence[str], labels: bytes) -> TableEdition:
    """Pickled dictionaries with `data` (N, 3072) and the labels under the given key."""

    def read(files: Sequence[Path]) -> ImageTable:
        parts = []
        for path in files:
            with path.open("rb") as file:
                parts.append(ArrayUnpickler(file, encoding="bytes").load())
        planes = np.concatenate([part[b"data"].reshape(-1, *SHAPE) for part in parts])
        return pixel_table([label for part in parts for label in part[labels]], planes, str(folder))

    return TableEdition(all_or_none(folder, names), read)


def binary(folder: Path, names: Sequence[str], label_bytes: int) -> TableEdition:
    """Binary files of rows: label bytes, of which the last is used, then 3072 bytes of red, green and blue planes."""

    def read(files: Sequence[Path]) -> ImageTable:
        parts = []
        for path in files:
            stored = np.fromfile(path, np.uint8)
            if stored.size % (label_bytes + PIXELS):
                raise UserError(f"{path} has {stored.size} bytes, not a whole number of rows. Download the file again.")
            parts.append(stored.reshape(-1, label_bytes + PIXELS))
        rows = np.concatenate(parts)
        return pixel_table(rows[:, label_bytes - 1], rows[:, label_bytes:].reshape(-1, *SHAPE), str(folder))

    return TableEdition(all_or_none(folder, names), read)
