"""What the labels of a run hold, and what is implausible about it: of all that are known unread, else of a sample."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robustprobe.core.errors import UserError
from robustprobe.datasets._check import LabelFindings, copies_among
from robustprobe.datasets.base import Dataset
from robustprobe.tasks import Task, load_task

SAMPLE = 24


class LabelDoubt(NamedTuple):
    """Something implausible about the labels of a task, in a sentence."""

    task: str
    text: str


class LabelReport(NamedTuple):
    """What the labels of a run hold, by task, and what is implausible about them."""

    facts: dict[str, str]
    doubts: tuple[LabelDoubt, ...]


def label_report(
    train: Dataset, reported: Dataset, tasks: Sequence[str], held_out: Dataset | None = None
) -> LabelReport:
    """What the labels hold that heads are fitted on, and those that numbers are reported on.

    Args:
        held_out: the images that heads are chosen on, of which none should be among the others.

    Raises:
        UserError: none of the labels read counts, so that there would be no number; or none can be read.
    """
    splits = dict.fromkeys((train, reported))
    told: dict[str, list[str]] = {name: [] for name in tasks}
    texts = [text for data in splits for text in data.doubts()]
    texts += copies_among(train, reported, held_out)
    doubts = [LabelDoubt(task, text) for text in texts for task in tasks]
    in_train: dict[str, frozenset[int]] = {}
    for data in splits:
        known, read = _findings(data, tasks)
        for name, label in known.items():
            if data is not train:
                label.in_train = in_train.get(name)
            elif read[name] == len(data):
                in_train[name] = frozenset(label.counts)
            images = f"{len(data):,}" if read[name] == len(data) else f"{read[name]:,} of {len(data):,}"
            told[name].append(f"{data.split} ({images} images) {label}")
            if not label.used:
                raise UserError(
                    f"{data.name}: none of {read[name]} {name} labels of {data.split} counts: "
                    f"{label.task.nothing_valid}. Correct the labels, or leave the task out."
                )
            if not data.generated:
                doubts += [LabelDoubt(name, text) for text in _warnings(data, label, read[name], data is train)]
    return LabelReport({name: "; ".join(texts) for name, texts in told.items()}, tuple(dict.fromkeys(doubts)))


def batch_doubts(task: Task, labels: Tensor) -> list[str]:
    """What is implausible about the checked label maps (B, ...) of a batch, a sentence each."""
    if not task.label_axes:
        return []
    empty = [str(position) for position, label in enumerate(labels) if not task.counted(label).numel()]
    named = f"{', '.join(empty[:5])}{', ...' if len(empty) > 5 else ''}"
    found = LabelFindings(task)
    for label in labels.cpu():
        found.add(label)
    texts = task.label_warnings(found.statistics, False) if found.used else []
    nothing = f"of images {named} no label counts, so that their score is NaN: {task.nothing_valid}"
    return [f"{task.name} labels: {text}." for text in [*[nothing] * bool(empty), *texts]]


def _warnings(data: Dataset, label: LabelFindings, read: int, is_train: bool) -> list[str]:
    # Of a part that is reported on, classes may be missing by chance.
    whole = read == len(data) and (is_train or len(data) == len(data.ids()))
    return [f"{data.split}: {text}" for text in label.task.label_warnings(label.statistics, whole)]


def _findings(data: Dataset, tasks: Sequence[str]) -> tuple[dict[str, LabelFindings], dict[str, int]]:
    """Labels by task, and how many images they are of."""
    found = {name: LabelFindings(load_task(name, data.spaces[name])) for name in tasks}
    read = dict.fromkeys(tasks, 0)
    unread = [name for name in tasks if found[name].task.label_axes or not data.knows_labels]
    for name in set(tasks).difference(unread):
        labels = torch.tensor([data.known_label(index) for index in data.indices])
        try:
            found[name].add(found[name].task.check_values(labels))
        except ValueError as error:
            raise UserError(f"{data.name}: {data.split} has {name} {error}. Correct the labels.") from error
        read[name] = len(data)
    faults = []
    for position in range(0, len(data), -(-len(data) // SAMPLE)) if unread else ():
        try:
            targets = data[position].targets
        except UserError as error:
            faults.append(error)
            continue  # the run says so, and does the rest
        for name in unread:
            if name not in targets:
                raise UserError(f"{data.name}: image {data.kept_ids[position]} has no {name} label. Add it.")
            found[name].add(targets[name])
            read[name] += 1
    if faults and not all(read.values()):
        raise faults[0]
    return found, read
