"""The share of a clean score that is kept."""

import math

import numpy as np
import pytest

from robustprobe.metrics.kept import share_kept

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("clean", "attacked", "higher", "expected"),
    [
        (0.8, 0.2, True, 0.25),
        (1.0, 4.0, False, 0.25),
        (0.5, 0.0, True, 0.0),
        (0.0, 0.2, True, math.nan),
        (-1.0, 0.2, True, math.nan),
        (1.0, 0.0, False, math.nan),
        (math.nan, 0.2, True, math.nan),
        (0.5, math.inf, True, math.nan),
    ],
)
def test_a_number_is_divided_the_way_its_metric_points(
    clean: float, attacked: float, higher: bool, expected: float
) -> None:
    assert float(share_kept(clean, attacked, higher)) == pytest.approx(expected, nan_ok=True)


def test_arrays_are_broadcast() -> None:
    kept = share_kept(np.array([1.0, 0.0]), np.array([[0.5, 0.5], [1.0, 1.0]]))
    assert np.array_equal(kept, [[0.5, math.nan], [1.0, math.nan]], equal_nan=True)
