"""Differences of a whole table: Holm's correction, and the images that a difference takes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from robustprobe.metrics.intervals import Estimate
from robustprobe.metrics.significance import holm, images_needed, p_value, standard_error

pytestmark = pytest.mark.unit


def normal(value: float, error: float) -> Estimate:
    return Estimate(value, value - 1.959964 * error, value + 1.959964 * error)


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [(1.959964, 1, 0.05), (-1.959964, 1, 0.05), (2.575829, 1, 0.01), (0.0, 1, 1.0), (0.2, 0, 0.0), (0, 0, 1.0)],
)
def test_p_values_are_those_of_the_normal_distribution(value: float, error: float, expected: float) -> None:
    assert p_value(normal(value, error)) == pytest.approx(expected, abs=1e-6)


def test_no_interval_is_no_evidence() -> None:
    assert p_value(Estimate(0.5, float("nan"), float("nan"))) == 1


def test_holm_equals_the_worked_example_whatever_the_order() -> None:
    # Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1 (never below its predecessor).
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.005, 0.01, 0.03, 0.04]) == pytest.approx([0.02, 0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.04]) == [0.04]


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_never_lowers_a_p_value_and_never_exceeds_bonferroni(p: list[float]) -> None:
    found = holm(p)
    assert all(own <= corrected <= min(1, own * len(p)) + 1e-12 for own, corrected in zip(p, found, strict=True))


def test_holm_keeps_tables_without_any_difference_clean() -> None:
    chance = np.random.default_rng(0)
    tables = [[p_value(normal(v, 1)) for v in chance.normal(size=12)] for _ in range(1000)]
    each = np.mean([min(table) < 0.05 for table in tables])
    together = np.mean([min(holm(table)) < 0.05 for table in tables])
    assert each > 0.4
    assert together < 0.07


def test_the_images_needed_find_the_difference_in_four_of_five_experiments() -> None:
    chance, spread = np.random.default_rng(1), 0.5
    pilot = normal(0.0, spread / np.sqrt(300))
    needed = images_needed(pilot, 300, 0.02)
    assert needed is not None
    assert needed == pytest.approx((2.8016 * spread / 0.02) ** 2, rel=1e-3)
    means = chance.normal(0.02, spread / np.sqrt(needed), 4000)
    assert np.mean(means > 1.96 * spread / np.sqrt(needed)) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("estimate", [Estimate(0.1, 0.1, 0.1), Estimate(0.1, float("nan"), float("nan"))])
def test_without_a_spread_nothing_is_known_of_other_images(estimate: Estimate) -> None:
    assert images_needed(estimate, 10, 0.02) is None
    assert images_needed(normal(0.1, 0.1), 10, 0.0) is None


@pytest.mark.parametrize("images", [2, 7, 8])
def test_a_spread_known_to_a_factor_of_ten_says_nothing_of_how_many_images_it_takes(images: int) -> None:
    low, high = chi2.ppf([0.025, 0.975], images - 1)
    assert (images_needed(normal(0.1, 0.1), images, 0.02) is None) == (high / low > 10)


def test_standard_error_is_read_off_the_interval() -> None:
    assert standard_error(normal(3, 0.25)) == pytest.approx(0.25, rel=1e-6)
