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
        worker = WorkerState(self.run_spec, self.pairs)
        while self.queue:
            item = heapq.heappop(self.queue)[2]
            try:
                done = WorkResult(item, self._do(worker, item))
            except (UserError, RuntimeError, OSError, MemoryError) as error:
                done = WorkResult(item, None, error)
            yield done

    def _do(self, worker: WorkerState, item: WorkItem) -> object:
        def notify(stage: str, done: int, total: int) -> None:
            self.watch.progress(item, stage, done, total)

        if isinstance(item, FitHeads):
            self.heads[item.pair] = worker.fit(item, notify)
            return self.heads[item.pair]
        heads = self.heads[item.pair]
        if isinstance(item, JudgeImages):
            return packed(worker.judge(item, heads, notify, self.watch.say))
        return worker.check(item, heads)
