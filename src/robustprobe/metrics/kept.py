"""The share of a clean score above chance that an attack left, for numbers and for arrays of them."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def share_kept(
    clean: ArrayLike, attacked: ArrayLike, chance: float = 0.0, higher_is_better: bool = True
) -> NDArray[np.float64]:
    """(attacked - chance) / (clean - chance), for scores and errors alike: 1 is unharmed, 0 is no better than chance.

    Args:
        clean: scores or errors on clean images.
        attacked: the same on attacked images; its shape and that of `clean` are broadcast.
        chance: the score or error of the best constant answer.
        higher_is_better: whether the values are scores; else errors.

    Returns:
        The share in the broadcast shape, at least 0; NaN where a value is not finite or `clean` is not better than
        `chance`.
    """
    part, whole = np.broadcast_arrays(
        above_chance(attacked, chance, higher_is_better), above_chance(clean, chance, higher_is_better)
    )
    exists = np.isfinite(part) & np.isfinite(whole) & (whole > 0)
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, np.nan), where=exists))


def above_chance(values: ArrayLike, chance: float, higher_is_better: bool) -> NDArray[np.float64]:
    """How much better than `chance` scores or errors are, 0 where they are worse."""
    gain = np.asarray(values, dtype=float) - chance
    return np.asarray(np.maximum(gain if higher_is_better else -gain, 0))
