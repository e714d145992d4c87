"""Runs that fit into a time, on plans of known cost."""

import math
from types import SimpleNamespace
from typing import cast

import pytest

from robustprobe.cli._options import parse_time
from robustprobe.core.errors import UserError
from robustprobe.core.spec import Suite
from robustprobe.evaluation.cells import PairCost, PairKey, Plan
from robustprobe.evaluation.time_budget import plan_within

pytestmark = pytest.mark.unit

SIZES = {"cifar10": 10_000, "camvid": 101}
SUITE = Suite.model_validate({"encoders": ["a", "b"], "datasets": list(SIZES)})


class Planner:
    """Plans in which heads of each pair take 30 s, and attacks 0.1 s per image at a `speed`."""

    def __init__(self, speed: float = 1.0, surprise: float = 1.0, load: float = 1.0) -> None:
        self.speed, self.surprise, self.load, self.made = speed, surprise, load, list[Suite]()

    def __call__(self, suite: Suite) -> Plan:
        self.made.append(suite)
        pairs, costs = [], {}
        slower = self.surprise if len(self.made) > 1 else 1.0
        for encoder in range(len(suite.encoders)):
            for number, wanted in enumerate(suite.datasets):
                key = PairKey(encoder, number)
                images = Images(wanted.name, min(wanted.limit or 10**9, SIZES[wanted.name]))
                pairs.append(SimpleNamespace(key=key, data=images))
                costs[key] = PairCost(30.0, (slower * 0.1 * len(images) / self.speed,), 0, self.load)
        seconds = sum(cost.seconds for cost in costs.values())
        heads = sum(cost.heads for cost in costs.values())
        found = SimpleNamespace(suite=suite, pairs=pairs, costs=costs, seconds=seconds, head_seconds=heads)
        found.load, found.clock_seconds = self.load, self.load * seconds
        return cast(Plan, found)


class Images:
    """So many images of a dataset."""

    def __init__(self, name: str, count: int) -> None:
        self.name, self.count = name, count

    def __len__(self) -> int:
        return self.count


def limits(plan: Plan) -> list[int | None]:
    return [data.limit for data in plan.suite.datasets]


def test_a_run_that_fits_takes_all_images() -> None:
    make = Planner()
    plan, words = plan_within(SUITE, math.inf, make)
    assert (limits(plan), words, len(make.made)) == ([None, None], "", 1)
    plan, words = plan_within(SUITE, 10_000.0, make)
    assert (limits(plan), words) == ([None, None], "all images fit into 10000 s")


def test_the_most_images_that_fit_are_taken_by_all_encoders() -> None:
    # Two encoders, two datasets: 120 s of heads; 0.4 s for each image of both datasets.
    plan, words = plan_within(SUITE, 200.0, Planner())
    assert limits(plan) == [200, None]
    assert plan.seconds <= 200
    assert words == (
        "what fits into 200 s: 200 of 10,000 images of cifar10, 101 of 101 images of camvid, the same for all encoders"
    )
    assert limits(plan_within(SUITE, 150.0, Planner()).plan) == [50, 50]


@pytest.mark.parametrize("seconds", [125, 180, 500, 1000, 2500])
def test_more_time_never_takes_fewer_images_and_the_estimate_is_kept(seconds: int) -> None:
    less, more = (plan_within(SUITE, s, Planner()).plan for s in (seconds, 2 * seconds))
    counts = [sum(len(pair.data) for pair in plan.pairs) for plan in (less, more)]
    assert counts[0] <= counts[1]
    assert less.seconds <= seconds


def test_a_second_look_that_is_slower_takes_fewer_again() -> None:
    plan, _ = plan_within(SUITE, 200.0, Planner(surprise=4.0))
    assert plan.seconds <= 200
    assert limits(plan) == [50, 50]


def test_the_time_is_that_of_the_clock_on_a_busy_machine() -> None:
    plan, _ = plan_within(SUITE, 400.0, Planner(load=2.0))
    assert limits(plan) == [200, None]
    with pytest.raises(UserError, match=r"take about 248 s, of which heads take 240 s"):
        plan_within(SUITE, 200.0, Planner(load=2.0))


def test_too_little_time_is_one_clear_error() -> None:
    with pytest.raises(UserError, match=r"10 images of each dataset take about 124 s, of which heads take 120 s"):
        plan_within(SUITE, 100.0, Planner())


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("90s", 90), ("45", 45), ("1.5h", 5400)]
)
def test_times_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds
    assert parse_time(None) == math.inf


@pytest.mark.parametrize("text", ["", "soon", "0m", "-5m", "1.2.3h", "30 minutes", "1h30", "2m5"])
def test_what_is_no_time_is_one_clear_error(text: str) -> None:
    with pytest.raises(UserError, match="is no time; write such as 90s, 30m, 2h or 1h30m"):
        parse_time(text)
