"""What every tracker is: told of a run's start, of each number, point of a curve, picture and file, and of its end."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from robustprobe.core.errors import UserError
from robustprobe.core.registry import trackers
from robustprobe.core.sizes import format_eps
from robustprobe.results.records import Record


class TrackedNumber(NamedTuple):
    """The number of a finished cell, with its 95 % interval.

    `cell` names the record in the folder of results. `target_task` is the task whose model was attacked, empty where
    no head was seen; `source` the encoder that the images were made on, empty where it is the one that judges.
    """

    cell: str
    encoder: str
    dataset: str
    task: str
    attack: str
    eps: float
    norm: str
    metric: str
    value: float
    ci_low: float
    ci_high: float
    n: int
    target_task: str = ""
    source: str = ""

    @classmethod
    def of(cls, record: Record) -> "TrackedNumber":
        """The headline number of a record."""
        return cls(
            record.fingerprint,
            record.encoder,
            record.images_of,
            record.task,
            record.attack.label,
            record.attack.eps,
            record.attack.norm,
            record.metric,
            *(record.headline.value, record.headline.ci_low, record.headline.ci_high),
            record.n,
            record.target_task,
            record.source_encoder,
        )

    @property
    def path(self) -> str:
        """`ENCODER/DATASET/TASK/ATTACK EPS/METRIC`, for programs that call a number by one name."""
        attack = self.attack
        if self.eps:
            attack += f" {format_eps(self.eps, self.norm).replace('/', ' of ')}"
        if self.target_task not in ("", self.task):
            attack += f" on {self.target_task}"
        if self.source:
            attack += f" from {self.source}"
        return "/".join((self.encoder, self.dataset, self.task, attack, self.metric))


class Tracker(ABC):
    """Is told of a run as it goes. A tracker that raises is left out of the rest of the run, which goes on."""

    def __init__(self, folder: Path) -> None:
        """Made before any work; derived classes raise UserError here where they lack something.

        Args:
            folder: the folder of results, in which a tracker may keep a folder of its own name.
        """
        self.folder = folder

    @abstractmethod
    def start(self, name: str, settings: Mapping[str, Any]) -> None:
        """A run begins: the name of its suite, and the suite as a file would say it."""

    @abstractmethod
    def number(self, number: TrackedNumber) -> None:
        """A cell is finished. Cells that were finished before the run come first."""

    # These two are optional: a tracker that has no place for them keeps numbers all the same.
    def point(self, curve: str, step: int, value: float) -> None:  # noqa: B027
        """A point of a curve of `robustprobe harden`, such as `training/loss` after an update. By default left out."""

    def picture(self, name: str, pixels: NDArray[np.uint8]) -> None:  # noqa: B027
        """A chart or example image of the page, (H, W, 3) in 0 to 255, after the last number. By default left out."""

    @abstractmethod
    def file(self, name: str, path: Path) -> None:
        """A file was written, such as the page."""

    @abstractmethod
    def end(self) -> None:
        """The run is over, also where it was interrupted."""


def check_library(module: str, tracker: str) -> None:
    """Raises UserError where the library of a built-in tracker is not installed."""
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"--tracker {tracker} needs the library {module}, which is not installed: "
            f"pip install 'robustprobe[{tracker}]', or leave it out."
        )


def load_tracker(name: str, folder: Path) -> Tracker:
    """The tracker of a name, or of `my.py:Class`. Raises UserError for an unknown one, or one that lacks something."""
    return cast(type[Tracker], trackers.get(name))(folder)
