"""In this process, one unit after another"""

import heapq
from collections.abc import Iterator
from typing import final

from robustprobe.core.errors import UserError
from robustprobe.evaluation.executors.base import Executor, WorkResult
from robustprobe.evaluation.executors.work import FitHeads, JudgeImages, WorkerState, WorkItem
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

    def results(self) -> Iterator[WorkResult]:
        workshop = WorkerState(self.order, self.benches)
        while self.queue:
            unit = heapq.heappop(self.queue)[2]
            try:
                done = WorkResult(unit, self._do(workshop, unit))
            except (UserError, RuntimeError, OSError, MemoryError) as error:
                done = WorkResult(unit, None, error)
            yield done

    def _do(self, workshop: WorkerState, unit: WorkItem) -> object:
        def notify(stage: str, done: int, total: int) -> None:
            self.watch.progress(unit, stage, done, total)

        if isinstance(unit, FitHeads):
            self.heads[unit.bench] = workshop.fit(unit, notify)
            return self.heads[unit.bench]
        heads = self.heads[unit.bench]
        if isinstance(unit, JudgeImages):
            return packed(workshop.judge(unit, heads, notify, self.watch.say))
        return workshop.check(unit, heads)
