"""MLflow: the server of MLFLOW_TRACKING_URI, or a file store in the folder of results"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from robustprobe.trackers.base import TrackedNumber, Tracker, check_library

EXPERIMENT = "robustprobe"
UNUSABLE = re.compile(r"[^\w\-. /:]")
"""Characters that no name of a metric or artifact may have."""


@final
class MLflow(Tracker):
    """A run of the experiment `robustprobe`; the suite is an artifact, so that no setting is cut."""

    def __init__(self, folder: Path) -> None:
        check_library("mlflow", "mlflow")
        super().__init__(folder)

    def start(self, name: str, settings: Mapping[str, Any]) -> None:
        from mlflow.tracking import MlflowClient

        place = os.environ.get("MLFLOW_TRACKING_URI")
        if not place:
            # MLflow refuses file stores without it since they are in maintenance mode; a database needs more libraries.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            place = (self.folder / "mlflow").absolute().as_uri()
        self.client = MlflowClient(tracking_uri=place)
        known = self.client.get_experiment_by_name(EXPERIMENT)
        experiment = known.experiment_id if known else self.client.create_experiment(EXPERIMENT)
        self.run = self.client.create_run(experiment, run_name=name).info.run_id
        self.client.log_dict(self.run, dict(settings), "suite.json")

    def number(self, number: TrackedNumber) -> None:
        values = {"": number.value, " ci_low": number.ci_low, " ci_high": number.ci_high}
        for end, value in values.items():
            self.client.log_metric(self.run, UNUSABLE.sub("_", number.path + end), value)

    def point(self, curve: str, step: int, value: float) -> None:
        self.client.log_metric(self.run, UNUSABLE.sub("_", curve), value, step=step)

    def picture(self, name: str, pixels: NDArray[np.uint8]) -> None:
        self.client.log_image(self.run, pixels, f"{UNUSABLE.sub('_', name).replace('..', '_').replace(':', '_')}.png")

    def file(self, name: str, path: Path) -> None:
        self.client.log_artifact(self.run, str(path))

    def end(self) -> None:
        self.client.set_terminated(self.run)
