"""Intervals hold what they promise."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from robustprobe.core.spec import Statistic
from robustprobe.metrics import intervals as stats
from robustprobe.metrics.intervals import Estimate, bootstrap, paired_share, wilson
from robustprobe.metrics.paired import paired_rows
from robustprobe.metrics.statistics import estimate

pytestmark = pytest.mark.unit

Floats = NDArray[np.float64]


def mean_estimate(values: Floats, seed: int = 0) -> Estimate:
    return bootstrap(
        {"value": values, "counted": np.ones(len(values))}, lambda sums: sums["value"] / sums["counted"], seed
    )


def test_bootstrap_interval_covers_the_true_mean_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    estimates = [mean_estimate(rng.exponential(2.0, 60)) for _ in range(200)]
    covered = np.mean([e.ci_low <= 2.0 <= e.ci_high for e in estimates])
    assert 0.90 <= covered <= 0.99


def test_bootstrap_interval_has_the_width_of_the_normal_approximation() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400)
    found = mean_estimate(values)
    assert found.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / 20
    assert found.ci_high - found.value == pytest.approx(half, rel=0.1)
    assert found.value - found.ci_low == pytest.approx(half, rel=0.1)


def test_a_difference_of_paired_shares_has_the_published_interval() -> None:
    """12 and 2 discordant pairs of 50 (Tango 1998); mirrored counts have the mirrored interval."""
    found, mirrored = paired_share(12, 2, 50), paired_share(2, 12, 50)
    assert found == pytest.approx((0.2, 0.061, 0.345), abs=1e-3)
    assert mirrored == pytest.approx((-found.value, -found.ci_high, -found.ci_low))


@pytest.mark.parametrize(("gained", "lost"), [(0.02, 0.0), (0.03, 0.01), (0.15, 0.05)])
def test_a_difference_of_paired_shares_is_covered_where_few_images_differ(gained: float, lost: float) -> None:
    """Among 50 images; the percentile bootstrap covers 0.64 and 0.85 of the first two."""
    drawn, times = np.unique(
        np.random.default_rng(0).multinomial(50, (gained, lost, 1 - gained - lost), size=4000),
        axis=0,
        return_counts=True,
    )
    found = [paired_share(int(more), int(less), 50) for more, less, _ in drawn]
    inside = np.array([e.ci_low <= gained - lost <= e.ci_high for e in found])
    assert (times @ inside) / 4000 >= 0.94


def test_no_pair_that_differs_is_no_certainty() -> None:
    found = paired_share(0, 0, 50)
    assert found.value == 0
    assert found.ci_high == -found.ci_low == pytest.approx(3.8415 / 53.8415, rel=1e-3)


@given(values=st.lists(st.floats(0, 10, width=32), min_size=1, max_size=8), seed=st.integers(0, 3))
def test_bootstrap_value_is_inside_its_interval(values: list[float], seed: int) -> None:
    found = mean_estimate(np.asarray(values), seed)
    assert found.ci_low <= found.value <= found.ci_high


@pytest.mark.parametrize("value", [0.1, 1 / 3, 2.7])
def test_bootstrap_value_of_equal_images_is_inside_its_interval(value: float) -> None:
    """A sum of equal numbers and a weighted sum round differently."""
    found = mean_estimate(np.full(100, value))
    assert found.ci_low <= found.value <= found.ci_high
    assert found.ci_high - found.ci_low < 1e-12


def test_bootstrap_draws_the_same_resamples_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=50)
    together = mean_estimate(values)
    for most in (1, 50 * 7, 50 * 1999):
        monkeypatch.setattr(stats, "MOST_COUNTS", most)
        assert mean_estimate(values) == pytest.approx(together, rel=1e-12)


def test_bootstrap_of_many_images_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "MOST_COUNTS", 2**16)
    tracemalloc.start()
    mean_estimate(np.ones(5000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20  # 80 MB for all resamples at once


def test_bootstrap_is_seeded() -> None:
    values = np.random.default_rng(0).normal(size=30)
    assert mean_estimate(values, 0) == mean_estimate(values, 0)
    assert mean_estimate(values, 0) != mean_estimate(values, 1)


def test_bootstrap_resamples_images_whole() -> None:
    """Columns of one image are drawn together: a ratio that is the same in every image has no spread."""
    values = np.random.default_rng(0).uniform(1, 5, 20)
    found = bootstrap({"value": np.stack([values, 3 * values], 1)}, lambda s: s["value"][..., 0] / s["value"][..., 1])
    assert found == pytest.approx((1 / 3, 1 / 3, 1 / 3))


# Newcombe, Statistics in Medicine 1998, table I, method 3; and the closed forms at 0 and N of N.
@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_published_intervals(successes: int, count: int, low: float, high: float) -> None:
    found = wilson(successes, count)
    assert found.value == successes / count
    assert (found.ci_low, found.ci_high) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson(count - successes, count)
    assert (mirrored.ci_low, mirrored.ci_high) == pytest.approx((1 - high, 1 - low), abs=5e-5)


@given(count=st.integers(1, 2000), share=st.floats(0, 1))
def test_wilson_contains_the_share_and_always_has_a_width(count: int, share: float) -> None:
    found = wilson(round(share * count), count)
    assert 0 <= found.ci_low <= found.value <= found.ci_high <= 1
    assert found.ci_high - found.ci_low > 0


@pytest.mark.filterwarnings("error")
def test_images_on_which_nothing_counts_make_no_noise() -> None:
    rows = {"above": np.array([[3.0], [0.0], [0.0]]), "below": np.array([[4.0], [0.0], [0.0]])}
    share = Statistic(kind="ratio", columns=("above", "below"))
    assert estimate(share, rows) == Estimate(0.75, 0.75, 0.75)
    assert np.isnan(estimate(share, {name: values[1:] for name, values in rows.items()}).value)


@pytest.mark.parametrize(
    ("first", "second", "value"),
    [
        # One image is enough for Tango's interval, which is wide then.
        ([1.0], [0.0], -1.0),
        ([1.0, np.nan, 0.0], [np.nan, 1.0, 1.0], 1.0),
        ([1.0, np.nan], [np.nan, 1.0], None),
        ([np.nan], [1.0], None),
    ],
)
def test_shares_are_paired_over_images_that_count_on_both_sides(
    first: list[float], second: list[float], value: float | None
) -> None:
    ids = [str(k) for k in range(len(first))]
    statistic = Statistic(kind="proportion", columns=("correct",))
    found = paired_rows(statistic, {"id": ids, "correct": first}, {"id": ids, "correct": second})
    assert (found.estimate and found.estimate.value) == value
    assert found.note == ("" if value else "No paired interval: no image has a score on both sides.")
