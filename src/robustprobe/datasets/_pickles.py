"""Official annotations that were published as Python pickles, read without running code."""

import pickle  # only its pure-Python unpickler, see `ArrayUnpickler`
from typing import Any, final

import numpy as np

from robustprobe.core.errors import UserError

ARRAY_PARTS = {
    (module, name)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray", "numpy")
    for name in ("_reconstruct", "ndarray", "scalar")
}
NUMBERS = ("u1", "u2", "i2", "i4", "i8", "f4", "f8")


def plain_type(code: bytes | str, *_: Any) -> np.dtype[Any]:
    """The dtype of pixels, labels, places or boxes. Raises UserError for any other, such as objects or structures."""
    name = code.decode("latin-1") if isinstance(code, bytes) else str(code)
    if name not in NUMBERS:
        raise UserError(f"a pickle holds an array of type {name[:20]}, which official files do not. Download it again.")
    return np.dtype(name)


@final
class ArrayUnpickler(pickle._Unpickler):
    """Unpickles containers, numbers and arrays of them only: loading any other pickle may run code.

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
