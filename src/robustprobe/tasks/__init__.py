"""Tasks: what a head is for. One file is one task; `base.py` is the contract."""

from robustprobe.metrics.statistics import Columns
from robustprobe.tasks._class_labels import (
    class_labels,
    found_classes,
    likeliest,
    lone_class,
    looks_like_probabilities,
    missing_classes,
)
from robustprobe.tasks._heads import Head
from robustprobe.tasks._loading import fitting_attacks, label_sources, load_task, task_kind, tasks_with_loss
from robustprobe.tasks._maps import fit_labels, resize
from robustprobe.tasks._model import Model, as_pixels
from robustprobe.tasks._recipe import Augment, TaskRecipe
from robustprobe.tasks.base import Task, on_labels

__all__ = [
    "Augment",
    "Columns",
    "Head",
    "Model",
    "Task",
    "TaskRecipe",
    "as_pixels",
    "class_labels",
    "fit_labels",
    "fitting_attacks",
    "found_classes",
    "label_sources",
    "likeliest",
    "load_task",
    "lone_class",
    "looks_like_probabilities",
    "missing_classes",
    "on_labels",
    "resize",
    "task_kind",
    "tasks_with_loss",
]
