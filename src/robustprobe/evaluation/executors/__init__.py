"""Where the work of a run is done: in this process, or by Ray on many machines."""

from robustprobe.evaluation.executors.base import Executor, LostError, Outcome, RunListener, load_executor
from robustprobe.evaluation.executors.work import (
    AttackTask,
    CheckAttack,
    FitHeads,
    JudgeImages,
    RunSpec,
    WorkerState,
    WorkItem,
)

__all__ = [
    "AttackTask",
    "CheckAttack",
    "Executor",
    "FitHeads",
    "JudgeImages",
    "LostError",
    "Outcome",
    "RunListener",
    "RunSpec",
    "WorkItem",
    "WorkerState",
    "load_executor",
]
