"""In this process, one unit after another"""

import heapq
from collections.abc import Iterator
from typing import final

from robustprobe.core.errors import UserError
from robustprobe.evaluation.executors.base import Done, Executor
from robustprobe.evaluation.executors.work import Fit, Judge, Unit, Workshop
from robustprobe.evaluation.partial_results import packed


@final
class Local(Executor):
    """Does the unit that comes first in the plan, then the next."""

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    @property
    def slots(self) -> int:
        return 1

    def results(self) -> Iterator[Done]:
        workshop = Workshop(self.order, self.benches)
        while self.queue:
            unit = heapq.heappop(self.queue)[2]
            try:
                done = Done(unit, self._do(workshop, unit))
            except (UserError, RuntimeError, OSError, MemoryError) as error:
                done = Done(unit, None, error)
            yield done

    def _do(self, workshop: Workshop, unit: Unit) -> object:
        def notify(stage: str, done: int, total: int) -> None:
            self.watch.progress(unit, stage, done, total)

        if isinstance(unit, Fit):
            self.heads[unit.bench] = workshop.fit(unit, notify)
            return self.heads[unit.bench]
        heads = self.heads[unit.bench]
        if isinstance(unit, Judge):
            return packed(workshop.judge(unit, heads, notify, self.watch.say))
        return workshop.check(unit, heads)
