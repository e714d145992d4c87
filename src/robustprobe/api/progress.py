"""Progress from Python: on a terminal's error stream or in a notebook, and silent elsewhere."""

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from html import escape
from types import TracebackType
from typing import Any, Self, final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from robustprobe.core.notebook import in_notebook
from robustprobe.evaluation.cells import Plan
from robustprobe.evaluation.run import RunProgress
from robustprobe.training.loop import TrainingProgress

NEWS = 6
"""Sentences that a notebook keeps below the bar."""
PAUSE = 0.2
"""Seconds between two updates of a notebook's output."""


class ProgressBar(ABC):
    """How far a run or a training is; used as a context."""

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @abstractmethod
    def step(self, label: str, completed: int, total: int, finished: bool = False) -> None:
        """Show how far a stage is; `finished` ends it."""

    @abstractmethod
    def say(self, text: str) -> None:
        """Show a sentence about something that happened."""

    @final
    def update(self, progress: RunProgress) -> None:
        """Show how far a stage of an evaluation is, and its scores as soon as they are known."""
        self.step(progress.label, progress.completed, progress.total, progress.finished)
        if progress.scores:
            self.say(f"{progress.label}: {progress.scores}")

    @final
    def train(self, progress: TrainingProgress) -> None:
        """Show how far a hardening run is."""
        self.step(f"epoch {progress.epoch}, loss {progress.loss:.4g}", progress.step, progress.total)


@final
class SilentProgress(ProgressBar):
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def step(self, label: str, completed: int, total: int, finished: bool = False) -> None:
        pass

    def say(self, text: str) -> None:
        pass


@final
class TerminalProgress(ProgressBar):
    """One bar for the stages, one for the images of the current stage, on the error stream."""

    def __init__(self, stages: int) -> None:
        self.console = Console(file=sys.stderr, markup=False, emoji=False)
        described = TextColumn("{task.description}", markup=False)
        columns = (described, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bars = Progress(*columns, console=self.console, transient=self.console.is_terminal)
        self.whole = self.bars.add_task("all stages", total=stages, visible=stages > 1)
        self.current = self.bars.add_task("", total=None)

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def step(self, label: str, completed: int, total: int, finished: bool = False) -> None:
        self.bars.update(self.current, description=label, completed=completed, total=total)
        if finished:
            self.bars.advance(self.whole)

    def say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)


@final
class NotebookProgress(ProgressBar):
    """A bar and the last sentences in the output of a cell, without widgets, so that every kind of notebook shows it.

    `display` puts HTML into the output and returns what replaces it: IPython's, with a `display_id`.
    """

    def __init__(self, stages: int, display: Callable[[str], Callable[[str], Any]]) -> None:
        self.stages, self.display, self.done = stages, display, 0
        self.label, self.share, self.news = "", 0.0, list[str]()
        self.started, self.shown = time.monotonic(), 0.0
        self.replace: Callable[[str], Any] = lambda html: None

    def __enter__(self) -> Self:
        self.replace = self.display(self._html())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.monotonic() - self.started
        ending = "Done" if kind is None else f"Stopped at {self.label}" if self.label else "Stopped"
        self.replace(f"<p><small>{escape(ending)} after {seconds:.0f} s</small></p>")

    def step(self, label: str, completed: int, total: int, finished: bool = False) -> None:
        self.done += finished
        self.label, self.share = label, 0.0 if finished else completed / max(1, total)
        self._refresh()

    def say(self, text: str) -> None:
        self.news = [*self.news, text][-NEWS:]
        self._refresh(now=True)

    def _refresh(self, now: bool = False) -> None:
        if now or time.monotonic() - self.shown >= PAUSE:
            self.shown = time.monotonic()
            self.replace(self._html())

    def _html(self) -> str:
        share = min(1.0, (self.done + self.share) / max(1, self.stages))
        news = "".join(f"<br>{escape(text)}" for text in self.news)
        bar = f'<progress value="{share:.3f}" max="1" style="vertical-align:middle"></progress>'
        return f"<p><small>{bar} {share:.0%} {escape(self.label)}{news}</small></p>"


def run_progress(plan: Plan, shown: bool | None) -> ProgressBar:
    """The bar of an evaluation; `shown` None: where there is a terminal or a notebook."""
    return progress_bar(sum(len(pair.left) + 1 for pair in plan.pairs if pair.left), shown)


def progress_bar(stages: int, shown: bool | None) -> ProgressBar:
    """A bar for so many stages; `shown` None: where there is a terminal or a notebook."""
    if shown is False:
        return SilentProgress()
    if in_notebook():
        return NotebookProgress(stages, _display)
    if shown or Console(file=sys.stderr).is_terminal:
        return TerminalProgress(stages)
    return SilentProgress()


def _display(html: str) -> Callable[[str], Any]:
    from IPython.display import HTML, display

    handle = display(HTML(html), display_id=True)
    return lambda changed: handle.update(HTML(changed))
