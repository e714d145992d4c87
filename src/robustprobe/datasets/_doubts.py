"""What is legal but implausible about the labels of a run: from all that are known unread, else from a fixed sample."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from robustprobe.core.errors import UserError
from robustprobe.datasets._check import LabelFindings
from robustprobe.datasets.base import Dataset
from robustprobe.tasks import load_task

SAMPLE = 24


class LabelDoubt(NamedTuple):
    """Something implausible about the labels of a task, in a sentence."""

    task: str
    text: str


def label_doubts(train: Dataset, reported: Dataset, tasks: Sequence[str]) -> list[LabelDoubt]:
    """What is implausible about the labels that heads are fitted on, and those that numbers are reported on.

    Raises:
        UserError: none of the labels read counts, so that there would be no number.
    """
    found = [LabelDoubt(task, text) for data in (train, reported) for text in data.doubts() for task in tasks]
    for data in (train, reported):
        if not data.generated:
            found += _of_labels(data, tasks, data is train)
    return list(dict.fromkeys(found))


def _of_labels(data: Dataset, tasks: Sequence[str], is_train: bool) -> list[LabelDoubt]:
    known, read = _findings(data, tasks)
    found = []
    for name, label in known.items():
        if read[name] and not label.used:
            raise UserError(
                f"{data.name}: none of {read[name]} {name} labels of {data.split} counts: {label.task.nothing_valid}. "
                "Correct the labels, or leave the task out."
            )
        # Of a part that is reported on, classes may be missing by chance.
        whole = read[name] == len(data) and (is_train or len(data) == len(data.ids()))
        found += [LabelDoubt(name, f"{data.split}: {t}") for t in label.task.label_warnings(label.statistics, whole)]
    return found


def _findings(data: Dataset, tasks: Sequence[str]) -> tuple[dict[str, LabelFindings], dict[str, int]]:
    """Labels by task, and how many images they are of."""
    found = {name: LabelFindings(load_task(name, data.spaces[name])) for name in tasks}
    read = dict.fromkeys(tasks, 0)
    unread = [name for name in tasks if found[name].task.label_axes or not data.knows_classes]
    for name in set(tasks).difference(unread):
        found[name].add(torch.tensor([data.stratum(index) for index in data.indices]))
        read[name] = len(data)
    for position in range(0, len(data), -(-len(data) // SAMPLE)) if unread else ():
        try:
            targets = data[position].targets
        except UserError:
            continue  # the run says so, and does the rest
        for name in unread:
            found[name].add(targets[name])
            read[name] += 1
    return found, read
