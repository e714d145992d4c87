"""Average precision of one ranking over many queries."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def micro_average_precision(similarity: Floats, right: Floats, counted: Floats, drawn: Floats) -> Floats:
    """Micro average precision, the metric of DISC21 (Douze et al. 2021): all candidates in one ranking.

    Precision at each similarity that occurs, weighted by the recall that it adds, as in scikit-learn; a right match
    that is no candidate is never found.

    Args:
        similarity: of the N queries with their K candidates, (N, K).
        right: which candidates are right, (N, K).
        counted: a number for queries that have a right match, NaN for others, (N,).
        drawn: how often each query counts, (..., N).

    Returns:
        One number for each of the leading axes of `drawn`; NaN where no query has a right match.
    """
    queries, count = similarity.shape
    order = np.argsort(-similarity, axis=None, kind="stable")
    values, hits, owner = similarity.ravel()[order], right.ravel()[order], order // count
    last = np.append(values[1:] != values[:-1], True)
    found = [_one(weights[owner], hits, last) for weights in drawn.reshape(-1, queries)]
    matches = (drawn * np.isfinite(counted)).sum(-1)
    total = np.reshape(np.asarray(found), drawn.shape[:-1])
    return np.asarray(np.divide(total, matches, out=np.full_like(matches, np.nan), where=matches > 0))


def _one(weights: Floats, hits: Floats, last: NDArray[np.bool_]) -> float:
    """Precision times the right candidates added, summed over a ranking whose ties end where `last` is true."""
    seen, right = weights.cumsum()[last], (weights * hits).cumsum()[last]
    precision = np.divide(right, seen, out=np.zeros_like(seen), where=seen > 0)
    return float((precision * np.diff(right, prepend=0.0)).sum())
