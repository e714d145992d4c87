"""The share of a clean score that an attack left, for numbers and for arrays of them."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def share_kept(clean: ArrayLike, attacked: ArrayLike, higher_is_better: bool = True) -> NDArray[np.float64]:
    """Attacked over clean score, or clean over attacked error: 1 is unharmed, 0 is nothing left.

    Args:
        clean: scores or errors on clean images.
        attacked: the same on attacked images; its shape and that of `clean` are broadcast.
        higher_is_better: whether the values are scores; else errors.

    Returns:
        The share in the broadcast shape, NaN where a value is not finite or the denominator is not above 0.
    """
    part, whole = (attacked, clean) if higher_is_better else (clean, attacked)
    part, whole = np.broadcast_arrays(np.asarray(part, dtype=float), np.asarray(whole, dtype=float))
    exists = np.isfinite(part) & np.isfinite(whole) & (whole > 0)
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, np.nan), where=exists))
