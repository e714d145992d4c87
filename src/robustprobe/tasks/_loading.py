"""Tasks by name, and what their classes say."""

from collections.abc import Collection, Iterable
from typing import cast

from robustprobe.core.registry import tasks
from robustprobe.core.types import LabelSpace
from robustprobe.tasks.base import Task


def load_task(name: str, space: LabelSpace) -> Task:
    """The task of a name over a label space. Raises UserError for an unknown name."""
    return task_kind(name)(space, name)


def task_kind(name: str) -> type[Task]:
    """The class of a task by name. Raises UserError for an unknown name."""
    return cast(type[Task], tasks.get(name))


def label_sources(names: Iterable[str], labels: Collection[str]) -> dict[str, str]:
    """By the name of each task the one of `labels` that it reads, which `labels_of` names or leads to; others and
    unknown names are left out.
    """
    found = {}
    for name in (name for name in names if name in tasks.names() or ".py:" in name):
        source = task_kind(name).labels_of
        while source and source not in labels:
            source = task_kind(source).labels_of
        if source:
            found[name] = source
    return found


def fitting_attacks(names: Iterable[str], objective: str = "") -> dict[str, tuple[str, ...]]:
    """By the name of each task the attacks that fit it beside those that name it.

    Args:
        objective: only tasks with an attack loss of this name; a name that no registered task has leaves all.
    """
    known = {name: task_kind(name) for name in names}
    having = {*tasks_with_loss(objective), *(name for name, kind in known.items() if _has_loss(kind, objective))}
    return {name: kind.attacks for name, kind in known.items() if name in having or not having}


def tasks_with_loss(name: str) -> list[str]:
    """The registered tasks with an attack loss of a name."""
    return [task for task in tasks.names() if name and _has_loss(task_kind(task), name)]


def _has_loss(kind: type[Task], name: str) -> bool:
    losses = getattr(kind, "attack_losses", None)
    return losses is not None and name in losses.losses
