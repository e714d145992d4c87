"""The share of a clean score above chance that is kept."""

import math

import numpy as np
import pytest

from robustprobe.metrics.kept import share_kept

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("clean", "attacked", "chance", "higher", "expected"),
    [
        (0.8, 0.2, 0.0, True, 0.25),
        (0.9, 0.3, 0.1, True, 0.25),
        (1.0, 4.0, 5.0, False, 0.25),
        (0.5, 0.0, 0.0, True, 0.0),
        (0.5, 0.05, 0.1, True, 0.0),
        (1.0, 7.0, 5.0, False, 0.0),
        (0.5, 0.6, 0.1, True, 1.25),
        (0.1, 0.1, 0.1, True, math.nan),
        (5.0, 5.0, 5.0, False, math.nan),
        (-1.0, 0.2, 0.0, True, math.nan),
        (math.nan, 0.2, 0.0, True, math.nan),
        (0.5, 0.2, math.nan, True, math.nan),
        (0.5, math.inf, 0.0, True, math.nan),
    ],
)
def test_scores_and_errors_are_counted_from_chance(
    clean: float, attacked: float, chance: float, higher: bool, expected: float
) -> None:
    assert float(share_kept(clean, attacked, chance, higher)) == pytest.approx(expected, nan_ok=True)


def test_arrays_are_broadcast() -> None:
    kept = share_kept(np.array([1.0, 0.0]), np.array([[0.5, 0.5], [1.0, 1.0]]))
    assert np.array_equal(kept, [[0.5, math.nan], [1.0, math.nan]], equal_nan=True)
