"""How far the difference of two numbers could be off, where both were measured on the same images."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustprobe.metrics.dense import mean_iou
from robustprobe.metrics.intervals import Estimate, bootstrap

if TYPE_CHECKING:
    from robustprobe.results.records import Record
    from robustprobe.results.store import Store

Floats = NDArray[np.float64]
Sums = Mapping[str, Floats]
SAME = "Equal on every image, so the paired interval has no width."


class Statistic(NamedTuple):
    """A metric of columns of rows: what each image contributes, and the number that sums of contributions make."""

    columns: tuple[str, ...]
    contributions: Callable[[dict[str, Floats]], dict[str, Floats]]
    value: Callable[[Sums], Floats]


class Paired(NamedTuple):
    """Second minus first with its 95 % interval, or None; and why there is none, or what is to be said of it."""

    estimate: Estimate | None
    note: str = ""


class Side(NamedTuple):
    """A record and the store its rows are in."""

    store: "Store"
    record: "Record"


def _counted(column: str) -> Callable[[dict[str, Floats]], dict[str, Floats]]:
    """A mean over the images whose value is a number."""

    def contributions(rows: dict[str, Floats]) -> dict[str, Floats]:
        finite = np.isfinite(rows[column])
        return {"value": np.where(finite, rows[column], 0), "counted": finite.astype(float)}

    return contributions


def _mean(sums: Sums) -> Floats:
    return np.divide(sums["value"], sums["counted"], out=np.full_like(sums["value"], np.nan), where=sums["counted"] > 0)


AREAS = ("intersection", "predicted", "labelled")
STATISTICS = {
    "top-1": Statistic(("correct",), _counted("correct"), _mean),
    "RMSE": Statistic(("rmse",), _counted("rmse"), _mean),
    "mIoU": Statistic(AREAS, dict, lambda sums: mean_iou(*(sums[name] for name in AREAS))),
}


def paired_difference(first: Side, second: Side) -> Paired:
    """Percentile bootstrap of second minus first: images are drawn jointly for both (`stats.bootstrap`).

    Args:
        first: a cell of one store.
        second: the same cell of another one.

    Returns:
        An estimate where both have rows of the same images; otherwise the reason why there is none.
    """
    metric = first.record.metric
    if metric != second.record.metric:
        return _none(f"the metrics are {metric} and {second.record.metric}")
    if metric not in STATISTICS:
        return _none(f"no per-image column is known for {metric}")
    tables = [_table(side) for side in (first, second)]
    if tables[0] is None or tables[1] is None:
        return _none("the rows of the " + ("first" if tables[0] is None else "second") + " are missing or damaged")
    return _paired(STATISTICS[metric], tables[0], tables[1])


def _none(reason: str) -> Paired:
    return Paired(None, f"No paired interval: {reason}.")


def _table(side: Side) -> dict[str, Any] | None:
    """The rows of a cell by column; None where they are not those the record vouches for."""
    fingerprint = side.record.fingerprint
    if not side.store.has(fingerprint):
        return None
    table: dict[str, Any] = side.store.rows(fingerprint).to_pydict()
    return table


def _paired(statistic: Statistic, first: dict[str, Any], second: dict[str, Any]) -> Paired:
    lacking = [c for c in ("id", *statistic.columns) if c not in first or c not in second]
    if lacking:
        return _none(f"the rows have no column {' or '.join(lacking)}")
    positions = {identity: position for position, identity in enumerate(second["id"])}
    shared = len(positions.keys() & set(first["id"]))
    if not shared == len(first["id"]) == len(second["id"]):
        return _none(f"different images, {len(first['id'])} and {len(second['id'])}, of which {shared} are the same")
    order = [positions[identity] for identity in first["id"]]
    own = {c: np.asarray(first[c], dtype=float) for c in statistic.columns}
    other = {c: np.asarray(second[c], dtype=float)[order] for c in statistic.columns}
    if any(own[c].shape != other[c].shape for c in own):
        return _none("the numbers of classes differ")
    if all(np.array_equal(own[c], other[c], equal_nan=True) for c in own):
        return Paired(Estimate(0.0, 0.0, 0.0), SAME)
    return Paired(_bootstrap(statistic, own, other))


def _bootstrap(statistic: Statistic, own: dict[str, Floats], other: dict[str, Floats]) -> Estimate:
    joint = {("first", name): values for name, values in statistic.contributions(own).items()}
    joint |= {("second", name): values for name, values in statistic.contributions(other).items()}
    # The bootstrap takes names; which side a column is of is told by its beginning.
    columns = {f"{side} {name}": values for (side, name), values in joint.items()}

    def of(side: str, sums: Sums) -> Floats:
        return statistic.value({name: sums[f"{side} {name}"] for known, name in joint if known == side})

    return bootstrap(columns, lambda sums: of("second", sums) - of("first", sums))
