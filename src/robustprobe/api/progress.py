"""A progress bar for Python: on a terminal's error stream or in a notebook, and silent elsewhere."""

import sys
from typing import final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from robustprobe.evaluation.plan import Plan
from robustprobe.evaluation.run import RunProgress


@final
class RunProgressBar:
    """One bar for the stages of a run, one for the images of the current stage. They are shown in `with bar.bars:`."""

    def __init__(self, stages: int, shown: bool | None) -> None:
        # A notebook shows what is written to its output; on a terminal the result alone belongs there.
        notebook = Console().is_jupyter
        self.console = Console() if notebook else Console(file=sys.stderr)
        self.shown = (notebook or self.console.is_terminal) if shown is None else shown
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bars = Progress(
            *columns, console=self.console, disable=not self.shown, transient=self.console.is_terminal and not notebook
        )
        self.whole = self.bars.add_task("all stages", total=stages)
        self.current = self.bars.add_task("", total=None)

    def update(self, progress: RunProgress) -> None:
        """Show how far a stage is."""
        self.bars.update(self.current, description=progress.label, completed=progress.completed, total=progress.total)
        if progress.finished:
            self.bars.advance(self.whole)

    def say(self, text: str) -> None:
        """Show a sentence about something that happened during the run."""
        if self.shown:
            self.console.print(text, markup=False, soft_wrap=True)


def run_progress(plan: Plan, shown: bool | None) -> RunProgressBar:
    """The bar of a plan; `shown` None: where there is a terminal or a notebook."""
    return RunProgressBar(sum(len(pair.left) + 1 for pair in plan.pairs if pair.left), shown)
