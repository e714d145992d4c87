"""What every executor is: units of work go in, what became of them comes out, in any order."""

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, cast, final

from robustprobe.core.registry import executors
from robustprobe.core.spec import ExecutorOptions
from robustprobe.evaluation.cells import EncoderOnDataset
from robustprobe.evaluation.executors.work import Findings, Heads, Rank, RunSpec, WorkItem
from robustprobe.evaluation.partial_results import PartialResult


class LostError(RuntimeError):
    """The executor itself is gone, and nothing more can be done in this process."""


Outcome = Heads | PartialResult | Findings | Exception
"""What comes of a work item: of `FitHeads`, `JudgeImages` and `CheckAttack` in this order, or why it failed."""


class RunListener(NamedTuple):
    """Whom to tell: of progress within a unit (unit, stage, done, total), and of what a user should know."""

    progress: Callable[[WorkItem, str, int, int], None]
    say: Callable[[str], None]


class Executor(ABC):
    """Does units of work. Derived classes fill `results`; use it as a context."""

    def __init__(
        self, run_spec: RunSpec, pairs: Sequence[EncoderOnDataset], options: ExecutorOptions, watch: RunListener
    ) -> None:
        self.run_spec, self.pairs, self.options, self.watch = run_spec, pairs, options, watch
        self.queue: list[tuple[Rank, int, WorkItem]] = []
        self.added = 0

    @abstractmethod
    def results(self) -> Iterator[tuple[WorkItem, Outcome]]:
        """Work items as they end, until none is left; more may be added meanwhile. Raises LostError."""

    @property
    @abstractmethod
    def slots(self) -> int:
        """Units that are worked on at once."""

    @abstractmethod
    def open(self) -> None:
        """Get ready. Raises UserError where that cannot be."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; work that is under way is dropped."""

    @final
    def add(self, item: WorkItem) -> None:
        """Ask for a work item; the heads of its pair must have come out before it."""
        heapq.heappush(self.queue, (item.rank, self.added, item))
        self.added += 1

    @final
    def drop(self, wanted: Callable[[WorkItem], bool]) -> None:
        """Forget units that have not begun, unless they are wanted."""
        self.queue = [entry for entry in self.queue if wanted(entry[2])]
        heapq.heapify(self.queue)

    @final
    def __enter__(self) -> "Executor":
        self.open()
        return self

    @final
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load_executor(
    run_spec: RunSpec, pairs: Sequence[EncoderOnDataset], options: ExecutorOptions, watch: RunListener
) -> Executor:
    """The executor of a name. Raises UserError for an unknown one."""
    kind = cast(type[Executor], executors.get(options.executor))
    return kind(run_spec, pairs, options, watch)
