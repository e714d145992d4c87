"""How robust each checkpoint of a hardening run is: house runner, one store, a table and a plot over epochs."""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from robustprobe.errors import UserError
from robustprobe.hardening._folder import Folder
from robustprobe.report.tables import table_rows
from robustprobe.runner import Failure, Plan, Progress, execute, make_plan
from robustprobe.spec import Suite, format_eps
from robustprobe.store import Record, Store

FORMATS = (".png", ".svg")


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


def plot(found: list[Point], path: Path) -> Path:
    """Robustness and clean score against epochs, with intervals, as a PNG or SVG file.

    Raises:
        UserError: another ending, no numbers, or the extra `plot` is missing.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"{path} is neither PNG nor SVG; give a name that ends in {' or '.join(FORMATS)}.")
    if not found:
        raise UserError("there are no finished cells to plot; run the same command again.")
    try:
        import altair as alt
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise UserError(
            "plots need altair and vl-convert; install the extra: pip install 'robustprobe[plot]'."
        ) from error
    charts = []
    for key in dict.fromkeys((p.dataset, p.task) for p in found):
        members = [p for p in found if (p.dataset, p.task) == key and math.isfinite(p.value)]
        base = alt.Chart(alt.Data(values=[p._asdict() for p in members]))
        epoch = alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1, format="d"))
        colour = alt.Color("attack:N", title="attack", sort=list(dict.fromkeys(p.attack for p in members)))
        band = base.mark_area(opacity=0.15).encode(epoch, y=alt.Y("low:Q"), y2="high:Q", color=colour)
        values = alt.Y("value:Q", title=_axis(members[0]), scale=alt.Scale(zero=True))
        line = base.mark_line(point=True).encode(epoch, y=values, color=colour)
        charts.append((band + line).properties(title=f"{key[0]}, {key[1]}", width=240, height=200))
    whole = alt.hconcat(*charts)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole.save(str(path), **({"scale_factor": 2} if path.suffix == ".png" else {}))
    return path
