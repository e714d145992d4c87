"""How robust each checkpoint of a hardening run is: house runner, one store, a table over epochs."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from robustprobe.core.errors import UserError
from robustprobe.core.shared_names import distinct_names
from robustprobe.core.spec import Suite
from robustprobe.evaluation.cells import Plan
from robustprobe.evaluation.plan import make_plan
from robustprobe.evaluation.run import Failure, RunProgress, execute
from robustprobe.results.records import Record
from robustprobe.results.store import Store
from robustprobe.training.folder import RunFolder


class CheckpointScore(NamedTuple):
    """One number of one checkpoint, with its 95 % interval."""

    epoch: int
    dataset: str
    task: str
    attack: str
    value: float
    low: float
    high: float
    metric: str
    unit: str


def checkpoint_names(folder: Path) -> dict[str, int]:
    """Epochs by the name of the encoder after them, as `file:DIR`; epoch 0 is the teacher.

    Raises:
        UserError: the folder holds no checkpoints.
    """
    found = RunFolder(folder).checkpoints()
    if not found:
        raise UserError(f"no checkpoints in {folder}; give the folder that `robustprobe harden --out` wrote.")
    return {f"file:{path}": epoch for epoch, path in found.items()}


def plan_curve(suite: Suite, folder: Path, out: Path, root: Path, device: torch.device) -> Plan:
    """The cells of all checkpoints. Raises UserError for anything that cannot be resolved."""
    suite = suite.model_copy(update={"encoders": tuple(checkpoint_names(folder))})
    return make_plan(suite, Store(out).prepare(), root, device, leave_out=True)


def measure(plan: Plan, out: Path, notify: Callable[[RunProgress], None]) -> list[Failure]:
    """Do what the plan lacks."""
    return execute(plan, Store(out), notify)


def points(records: Iterable[Record], epochs: Mapping[str, int]) -> list[CheckpointScore]:
    """The numbers of checkpoints, by dataset, task, attack and epoch; attacks made for another task are left out."""
    known = dict(zip(distinct_names(list(epochs)), epochs.values(), strict=True))
    own = [r for r in records if r.encoder in known and r.target_task in ("", r.task)]
    found = [_point(record, known[record.encoder]) for record in sorted(own, key=_shown_order)]
    return sorted(found, key=lambda p: (p.dataset, p.task, p.epoch))


def _shown_order(record: Record) -> tuple[object, ...]:
    """Clean first, then noise, attacks without a head and those with one."""
    attack = record.attack
    return (not record.is_clean, not record.is_control, record.target_task != "", attack.name, attack.eps)


def _point(record: Record, epoch: int) -> CheckpointScore:
    number, attack = record.headline, record.attack.sized_label
    numbers = (number.value, number.ci_low, number.ci_high)
    return CheckpointScore(epoch, record.dataset, record.task, attack, *numbers, record.metric, record.unit)


class EpochTable(NamedTuple):
    """Rows are epochs, columns attacks."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def tables(found: list[CheckpointScore]) -> list[EpochTable]:
    """A table for each dataset and task."""
    groups: dict[tuple[str, str], list[CheckpointScore]] = {}
    for point in found:
        groups.setdefault((point.dataset, point.task), []).append(point)
    return [_table(members) for members in groups.values()]


def _table(members: list[CheckpointScore]) -> EpochTable:
    first = members[0]
    attacks = list(dict.fromkeys(p.attack for p in members))
    cells = {(p.epoch, p.attack): f"{p.value:.3f} [{p.low:.3f}, {p.high:.3f}]" for p in members}
    epochs = sorted({p.epoch for p in members})
    rows = [[f"{e} (teacher)" if e == 0 else str(e), *(cells.get((e, a), "—") for a in attacks)] for e in epochs]
    return EpochTable(f"{first.dataset}, {first.task}: {_axis(first)}", ["epoch", *attacks], rows)


def _axis(point: CheckpointScore) -> str:
    return f"{point.metric} ({point.unit})" if point.unit else point.metric
