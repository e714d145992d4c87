"""How far the difference of two numbers could be off, where both were measured on the same images."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustprobe.core.spec import Statistic
from robustprobe.metrics.intervals import Estimate, bootstrap
from robustprobe.metrics.statistics import GROUP, Sums, parts

if TYPE_CHECKING:
    from robustprobe.results.records import Record
    from robustprobe.results.store import Store

Floats = NDArray[np.float64]
SAME = "Equal on every image, so the paired interval has no width."


class Paired(NamedTuple):
    """Second minus first with its 95 % interval, or None; and why there is none, or what is to be said of it."""

    estimate: Estimate | None
    note: str = ""


class Side(NamedTuple):
    """A record and the store its rows are in."""

    store: "Store"
    record: "Record"


def paired_difference(first: Side, second: Side) -> Paired:
    """Percentile bootstrap of second minus first: images are drawn jointly for both (`stats.bootstrap`).

    Args:
        first: a cell of one store.
        second: the same cell of another one.

    Returns:
        An estimate where both have rows of the same images; otherwise the reason why there is none.
    """
    metric, statistic = first.record.metric, first.record.statistic
    if metric != second.record.metric or statistic != second.record.statistic:
        return _none(f"the metrics are {metric} and {second.record.metric}")
    if statistic is None:
        return _none(f"no per-image column is known for {metric}")
    tables = [_table(side) for side in (first, second)]
    if tables[0] is None or tables[1] is None:
        return _none("the rows of the " + ("first" if tables[0] is None else "second") + " are missing or damaged")
    return _paired(statistic, tables[0], tables[1])


def _none(reason: str) -> Paired:
    return Paired(None, f"No paired interval: {reason}.")


def _table(side: Side) -> dict[str, Any] | None:
    """The rows of a cell by column; None where their digest is not that of the record."""
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
    groups = np.asarray(first[GROUP]) if GROUP in first and first[GROUP] == _in_order(second, order) else None
    return Paired(_bootstrap(statistic, own, other, groups))


def _in_order(table: dict[str, Any], order: list[int]) -> list[Any] | None:
    """The groups of a table's images in another order; None where it has none."""
    return [table[GROUP][position] for position in order] if GROUP in table else None


def _bootstrap(
    statistic: Statistic, own: dict[str, Floats], other: dict[str, Floats], groups: NDArray[np.int64] | None
) -> Estimate:
    sides = {"first": parts(statistic, own), "second": parts(statistic, other)}
    # The bootstrap takes names; which side a column is of is told by its beginning.
    joint = {f"{side} {name}": v for side, found in sides.items() for name, v in found.contributions.items()}

    def of(side: str, sums: Sums) -> Floats:
        return sides[side].value({name: sums[f"{side} {name}"] for name in sides[side].contributions})

    return bootstrap(joint, lambda sums: of("second", sums) - of("first", sums), groups=groups)
