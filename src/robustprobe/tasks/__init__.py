"""Tasks: what a head is for. One file is one task."""

from robustprobe.tasks.base import Head, Model, Task, load_task

__all__ = ["Head", "Model", "Task", "load_task"]
