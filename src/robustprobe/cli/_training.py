"""What a hardening run shows, a progress bar and a line per epoch, and what it tells trackers."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, final

from rich.console import Console
from rich.progress import MofNCompleteColumn

from robustprobe.cli._console import bars_of
from robustprobe.cli._display import duration
from robustprobe.trackers import GuardedTrackers
from robustprobe.training.folder import LOG, read_log
from robustprobe.training.loop import TrainingProgress
from robustprobe.training.spec import HardenSpec


class TrainingDisplay:
    """Follows a run: on a terminal a bar with loss and time left, and everywhere a line at the end of an epoch.

    The bar is shown in `with display.bars:`.
    """

    def __init__(self, console: Console, leads: bool) -> None:
        self.console, self.leads = console, leads
        self.bars = bars_of(console, MofNCompleteColumn(), shown=leads and console.is_terminal)
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
        )


@final
class TrainingCurves:
    """Tells trackers the loss, its terms and the learning rate of each update, and the feature drift of each epoch.

    They are started at the first update, so that a run that cannot begin leaves nothing of them. Where a run goes on,
    its log gives the updates before.
    """

    def __init__(self, told: GuardedTrackers, spec: HardenSpec, folder: Path, console: Console) -> None:
        self.told, self.spec, self.log = told, spec, folder / LOG
        self.say = partial(console.print, soft_wrap=True)
        self.started = False

    def update(self, progress: TrainingProgress) -> None:
        """Tell an update, after those before it that are only in the log."""
        before: list[dict[str, Any]] = []
        if not self.started:
            self.started = True
            self.told.start(f"harden {self.spec.method}", self.spec.model_dump(mode="json"), self.say)
            before = [line for line in read_log(self.log) if line["step"] < progress.step]
        for line in [*before, progress.line]:
            for curve, value in _points(line):
                self.told.point(curve, line["step"], value)

    def end(self) -> None:
        """The run is over."""
        if self.started:
            self.told.file("log", self.log)


def _points(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and values of the curves that a line of the log goes on."""
    for name, value in line.items():
        if name not in ("step", "seconds", "look"):
            yield f"training/{name}", value
    for name, value in line.get("look", {}).items():
        yield f"held-out/{name if name == 'drift' else f'attacked {name}'}", value
