"""Weights & Biases: offline in the folder of results, or as WANDB_MODE says"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from robustprobe.trackers.base import TrackedNumber, Tracker, check_library

PROJECT = "robustprobe"


@final
class WeightsAndBiases(Tracker):
    """A run of the project `robustprobe`: numbers as metrics and as one table, the suite as its configuration."""

    def __init__(self, folder: Path) -> None:
        check_library("wandb", "wandb")
        super().__init__(folder)
        self.numbers: list[TrackedNumber] = []

    def start(self, name: str, settings: Mapping[str, Any]) -> None:
        import wandb

        self.folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=PROJECT,
            name=name,
            dir=str(self.folder),
            config=dict(settings),
            # Nothing leaves the machine unless it is asked for.
            mode=None if os.environ.get("WANDB_MODE") else "offline",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def number(self, number: TrackedNumber) -> None:
        self.numbers.append(number)
        values = {"": number.value, " ci_low": number.ci_low, " ci_high": number.ci_high}
        self.run.log({number.path + end: value for end, value in values.items()})

    def point(self, curve: str, step: int, value: float) -> None:
        self.run.log({curve: value}, step=step)

    def picture(self, name: str, pixels: NDArray[np.uint8]) -> None:
        import wandb

        self.run.log({name: wandb.Image(pixels)})

    def file(self, name: str, path: Path) -> None:
        self.run.save(str(path), base_path=str(path.parent), policy="now")

    def end(self) -> None:
        import wandb

        if self.numbers:
            rows = [list(number) for number in self.numbers]
            self.run.log({"numbers": wandb.Table(columns=list(TrackedNumber._fields), data=rows)})
        self.run.finish()
