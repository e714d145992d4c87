"""Where the work of a run is done: in this process, or by Ray on many machines."""

from robustprobe.evaluation.executors.base import Done, Executor, LostError, Watch, load_executor
from robustprobe.evaluation.executors.work import Check, Fit, Judge, Order, Task, Unit, Workshop

__all__ = [
    "Check",
    "Done",
    "Executor",
    "Fit",
    "Judge",
    "LostError",
    "Order",
    "Task",
    "Unit",
    "Watch",
    "Workshop",
    "load_executor",
]
