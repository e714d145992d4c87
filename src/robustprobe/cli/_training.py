"""What a hardening run shows: a progress bar, and a line per epoch."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars

from robustprobe.cli._display import duration
from robustprobe.training.loop import TrainingProgress


class TrainingDisplay:
    """Follows a run: on a terminal a bar with loss and time left, and everywhere a line at the end of an epoch.

    The bar is shown in `with display.bars:`.
    """

    def __init__(self, console: Console, leads: bool) -> None:
        self.console, self.leads = console, leads
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self.bars = Bars(*columns, console=console, disable=not (leads and console.is_terminal), transient=True)
        self.task = self.bars.add_task("images are read", total=None)

    def update(self, progress: TrainingProgress) -> None:
        """Show an update."""
        text = f"epoch {progress.epoch}, loss {progress.loss:.4g}, {duration(progress.left)} left"
        self.bars.update(self.task, description=text, completed=progress.step, total=progress.total)
        if progress.look is None or not self.leads:
            return
        facts = "".join(f", {name} {value:.3g}" for name, value in progress.facts.items())
        look = progress.look
        self.console.print(
            f"epoch {progress.epoch}: loss {progress.loss:.4g}{facts}; held-out images: drift {look.drift:.3f}, "
            f"attacked cls {look.cls:.3f}, patch {look.patch:.3f} (1: as far as another image); "
            f"{duration(progress.left)} left",
            soft_wrap=True,
            markup=False,
        )
