"""A run that fits into a time: fewer images of every dataset, the same ones for all encoders."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from robustprobe.core.errors import UserError
from robustprobe.core.spec import Suite
from robustprobe.datasets import Dataset
from robustprobe.evaluation.cells import Plan

FEWEST = 10
"""Images of a dataset below which nothing can be said."""
_STEPS = (5, 2, 1)


class FittedPlan(NamedTuple):
    """A plan whose estimate is within the time, and in words which images it takes; empty where it takes all."""

    plan: Plan
    words: str


def plan_within(suite: Suite, seconds: float, make: Callable[[Suite], Plan]) -> FittedPlan:
    """The plan of a suite, or of the same with the most images of each dataset that fit into a time.

    Numbers of images are 10, 20, 50, 100, 200 and so on, so that the same machine takes the same ones again. The time
    is that of the estimate on the clock: a run is never stopped because it takes longer.

    Args:
        seconds: the time.
        make: plans a suite.

    Raises:
        UserError: `FEWEST` images of each dataset take longer.
    """
    plan = make(suite)
    whole = [len(_data(plan, number)) for number in range(len(suite.datasets))]
    for images in _fewer(max(whole)):
        if plan.clock_seconds <= seconds:
            break
        if _expected(plan, images) <= seconds or images <= FEWEST:
            plan = make(_limited(suite, whole, images))
    if plan.clock_seconds > seconds:
        raise UserError(
            f"{min(FEWEST, max(whole))} images of each dataset take about {plan.clock_seconds:.0f} s, of which heads "
            f"take {plan.head_seconds * plan.load:.0f} s; --max-time is {seconds:.0f} s. Give more time or fewer "
            "attacks."
        )
    taken = [len(_data(plan, number)) for number in range(len(suite.datasets))]
    if taken == whole:
        return FittedPlan(plan, "" if math.isinf(seconds) else f"all images fit into {seconds:.0f} s")
    names = [_data(plan, number).name for number in range(len(suite.datasets))]
    parts = [f"{few:,} of {all_:,} images of {name}" for few, all_, name in zip(taken, whole, names, strict=True)]
    return FittedPlan(plan, f"what fits into {seconds:.0f} s: {', '.join(parts)}, the same for all encoders")


def _data(plan: Plan, number: int) -> Dataset:
    return next(pair.data for pair in plan.pairs if pair.key.dataset == number)


def _fewer(most: int) -> Iterator[int]:
    """10, 20, 50, 100 and so on below a number, descending."""
    power = 10 ** len(str(most))
    while power >= FEWEST:
        yield from (step * power for step in _STEPS if step * power < most)
        power //= 10


def _expected(plan: Plan, images: int) -> float:
    """Seconds of a plan with at most so many images of each dataset."""
    found = 0.0
    for pair in plan.pairs:
        if cost := plan.costs.get(pair.key):
            found += cost.load * (cost.heads + sum(cost.jobs) * min(1.0, images / len(pair.data)))
    return found


def _limited(suite: Suite, whole: list[int], images: int) -> Suite:
    datasets = [
        data if images >= count else data.model_copy(update={"limit": images})
        for data, count in zip(suite.datasets, whole, strict=True)
    ]
    return suite.model_copy(update={"datasets": tuple(datasets)})
