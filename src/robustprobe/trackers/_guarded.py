"""Trackers that cannot harm a run."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from robustprobe.results.records import Record
from robustprobe.trackers.base import TrackedNumber, Tracker, load_tracker


@final
class GuardedTrackers:
    """Tells every tracker; one that raises is warned about once and told nothing more. Use it as a context."""

    def __init__(self, names: Iterable[str], folder: Path) -> None:
        """Raises UserError for an unknown tracker, or one whose library is not installed."""
        self.trackers = {name: load_tracker(name, folder) for name in dict.fromkeys(names)}
        self.say: Callable[[str], None] = print
        self.started = False

    def start(self, name: str, settings: Mapping[str, Any], say: Callable[[str], None]) -> None:
        """A run begins; `say` is told of trackers that fail."""
        self.say, self.started = say, True
        self._tell(lambda tracker: tracker.start(name, settings))

    def record(self, record: Record) -> None:
        """A cell is finished."""
        self._tell(lambda tracker: tracker.number(TrackedNumber.of(record)))

    def point(self, curve: str, step: int, value: float) -> None:
        """A curve goes on."""
        self._tell(lambda tracker: tracker.point(curve, step, value))

    def picture(self, name: str, pixels: NDArray[np.uint8]) -> None:
        """A chart or example image was drawn, (H, W, 3)."""
        self._tell(lambda tracker: tracker.picture(name, pixels))

    def file(self, name: str, path: Path) -> None:
        """A file was written; nothing where it was not."""
        if path.is_file():
            self._tell(lambda tracker: tracker.file(name, path))

    def __enter__(self) -> "GuardedTrackers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.started:
            self._tell(lambda tracker: tracker.end())

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.trackers.items()):
            try:
                what(tracker)
            # Whatever the code of others raises, numbers come first.
            except Exception as error:
                del self.trackers[name]
                reason = str(error) or type(error).__name__
                self.say(f"warning: tracker {name} failed and is told nothing more; the run goes on: {reason}")
