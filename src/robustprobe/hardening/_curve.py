"""How robust each checkpoint of a hardening run is: house runner, one store, a table over epochs."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from robustprobe.errors import UserError
from robustprobe.hardening._folder import Folder
from robustprobe.planning import Plan, make_plan
from robustprobe.report.tables import table_rows
from robustprobe.runner import Failure, Progress, execute
from robustprobe.spec import Suite, format_eps
from robustprobe.store import Record, Store


class Point(NamedTuple):
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
    found = Folder(folder).checkpoints()
    if not found:
        raise UserError(f"no checkpoints in {folder}; give the folder that `robustprobe harden --out` wrote.")
    return {f"file:{path}": epoch for epoch, path in found.items()}


def plan_curve(suite: Suite, folder: Path, out: Path, root: Path, device: torch.device) -> Plan:
    """The cells of all checkpoints. Raises UserError for anything that cannot be resolved."""
    suite = suite.model_copy(update={"encoders": tuple(checkpoint_names(folder))})
    return make_plan(suite, Store(out).prepare(), root, device, leave_out=True)


def measure(plan: Plan, out: Path, notify: Callable[[Progress], None]) -> list[Failure]:
    """Do what the plan lacks."""
    return execute(plan, Store(out), notify)


def points(records: Iterable[Record], epochs: Mapping[str, int]) -> list[Point]:
    """The numbers of checkpoints, by dataset, task, attack and epoch; attacks made for another task are left out."""
    rows = [row for row in table_rows(records) if row["encoder"] in epochs]
    found = [_point(row, epochs[row["encoder"]]) for row in rows]
    return sorted(found, key=lambda p: (p.dataset, p.task, p.epoch))


def _point(row: Mapping[str, Any], epoch: int) -> Point:
    label = f"{row['attack']}:{row['objective']}" if row["objective"] else str(row["attack"])
    attack = label if row["attack"] == "clean" else f"{label} {format_eps(row['eps'], row['norm'])}"
    numbers = (row["value"], row["ci_low"], row["ci_high"])
    return Point(epoch, row["dataset"], row["task"], attack, *numbers, row["metric"], row["unit"])


class Table(NamedTuple):
    """Rows are epochs, columns attacks."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def tables(found: list[Point]) -> list[Table]:
    """A table for each dataset and task."""
    groups: dict[tuple[str, str], list[Point]] = {}
    for point in found:
        groups.setdefault((point.dataset, point.task), []).append(point)
    return [_table(members) for members in groups.values()]


def _table(members: list[Point]) -> Table:
    first = members[0]
    attacks = list(dict.fromkeys(p.attack for p in members))
    cells = {(p.epoch, p.attack): f"{p.value:.3f} [{p.low:.3f}, {p.high:.3f}]" for p in members}
    epochs = sorted({p.epoch for p in members})
    rows = [[f"{e} (teacher)" if e == 0 else str(e), *(cells.get((e, a), "—") for a in attacks)] for e in epochs]
    return Table(f"{first.dataset}, {first.task}: {_axis(first)}", ["epoch", *attacks], rows)


def _axis(point: Point) -> str:
    return f"{point.metric} ({point.unit})" if point.unit else point.metric
