"""What people hand in, as the rest of the package takes it."""

from typing import Any

import numpy as np
from torch import Tensor


def plain(value: Any) -> Any:
    """A number of NumPy's or torch's as Python's; anything else as it is."""
    return value.item() if isinstance(value, np.generic | np.ndarray | Tensor) and value.ndim == 0 else value
