"""TensorBoard event files in the folder of results"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from robustprobe.trackers.base import TrackedNumber, Tracker, check_library


@final
class TensorBoard(Tracker):
    """A run is a folder `tensorboard/TIME`; a number is a scalar, its interval two more with `ci_low` and `ci_high`."""

    def __init__(self, folder: Path) -> None:
        check_library("tensorboard", "tensorboard")
        super().__init__(folder)

    def start(self, name: str, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        own = f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**6:06d}"
        self.writer = SummaryWriter(str(self.folder / "tensorboard" / own))
        self.writer.add_text("suite", f"{name}\n\n```json\n{json.dumps(settings, indent=2)}\n```")

    def number(self, number: TrackedNumber) -> None:
        values = {"": number.value, " ci_low": number.ci_low, " ci_high": number.ci_high}
        for end, value in values.items():
            self.writer.add_scalar(number.path + end, value, 0)
        self.writer.flush()

    def point(self, curve: str, step: int, value: float) -> None:
        self.writer.add_scalar(curve, value, step)

    def picture(self, name: str, pixels: NDArray[np.uint8]) -> None:
        self.writer.add_image(name, pixels, dataformats="HWC")

    def file(self, name: str, path: Path) -> None:
        self.writer.add_text(name, str(path))

    def end(self) -> None:
        self.writer.close()
