"""The official archives of CIFAR: Python pickles and binary rows."""

import pickle  # only its pure-Python unpickler, see `ArrayUnpickler`
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from robustprobe.core.errors import UserError
from robustprobe.datasets._tables import ImageTable, TableEdition, all_or_none, pixel_table

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
ARRAY_PARTS = {
    (module, name)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray", "numpy")
    for name in ("_reconstruct", "ndarray")
}
NUMBERS = ("u1", "i4", "i8")


def plain_type(code: bytes | str, *_: Any) -> np.dtype[Any]:
    """The dtype of pixels or labels. Raises UserError for any other, such as objects or structures."""
    name = code.decode("latin-1") if isinstance(code, bytes) else str(code)
    if name not in NUMBERS:
        raise UserError(f"a pickle holds an array of type {name[:20]}, which official files do not. Download it again.")
    return np.dtype(name)


@final
class ArrayUnpickler(pickle._Unpickler):
    """Unpickles containers and integer arrays only: loading any other pickle may run code.

    A subclass of the pure-Python unpickler: the C version allocates memory for as many objects as a file declares.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            # Python 3 writes bytes this way for Python 2. Other codecs would be imported by name.
            return lambda text, codec: text.encode("latin-1")
        if name == "dtype" and module == "numpy":
            return plain_type
        if (module, name) in ARRAY_PARTS:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise UserError(
            f"a pickle asks for {module}.{name}, which official files do not; it is not loaded. Download it again."
        )


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
