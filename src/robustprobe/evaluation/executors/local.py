"""In this process, one unit after another"""

import heapq
from collections.abc import Iterator
from typing import final

import torch

from robustprobe.core.errors import UserError
from robustprobe.evaluation.cells import PairKey
from robustprobe.evaluation.executors.base import Executor, Outcome
from robustprobe.evaluation.executors.work import FitHeads, Heads, JudgeImages, WorkerState, WorkItem


@final
class Local(Executor):
    """Does the unit that comes first in the plan, then the next."""

    def open(self) -> None:
        self.heads: dict[PairKey, Heads] = {}
        self.threads = torch.get_num_threads()
        if self.options.threads:
            torch.set_num_threads(self.options.threads)

    def close(self) -> None:
        torch.set_num_threads(self.threads)

    @property
    def slots(self) -> int:
        return 1

    def results(self) -> Iterator[tuple[WorkItem, Outcome]]:
        worker = WorkerState(self.run_spec, self.pairs)
        while self.queue:
            item = heapq.heappop(self.queue)[2]
            try:
                outcome = self._do(worker, item)
            except (UserError, RuntimeError, OSError, MemoryError) as error:
                outcome = error
            yield item, outcome

    def _do(self, worker: WorkerState, item: WorkItem) -> Outcome:
        def notify(stage: str, done: int, total: int) -> None:
            self.watch.progress(item, stage, done, total)

        if isinstance(item, FitHeads):
            self.heads[item.pair] = worker.fit(item, notify)
            return self.heads[item.pair]
        heads = self.heads[item.pair]
        if isinstance(item, JudgeImages):
            return worker.judge(item, heads, notify, self.watch.say)
        return worker.check(item, heads)
