"""How far the difference of two numbers could be off, where both were measured on the same images."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustprobe.core.spec import Statistic
from robustprobe.metrics.intervals import Estimate, bootstrap, paired_share
from robustprobe.metrics.statistics import GROUP, Sums, parts

if TYPE_CHECKING:
    from robustprobe.results.records import Record
    from robustprobe.results.store import Store

Floats = NDArray[np.float64]
SAME = "Equal on every image, so the paired interval has no width."
"""For shares, what other images could differ by is said too."""
FEW = 10
"""Of fewer images a bootstrap is far too narrow, see docs/concepts/statistics.md."""


class Paired(NamedTuple):
    """Second minus first with its 95 % interval, or None; and why there is none, or what is to be said of it."""

    estimate: Estimate | None
    note: str = ""


class Side(NamedTuple):
    """A record and the store its rows are in."""

    store: "Store"
    record: "Record"


def paired_difference(first: Side, second: Side) -> Paired:
    """Percentile bootstrap of second minus first: images are drawn jointly for both (`intervals.bootstrap`).

    Shares of images without groups have Tango's score interval: where few images differ, a bootstrap is too narrow.

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
    return paired_rows(statistic, tables[0], tables[1])


def _none(reason: str) -> Paired:
    return Paired(None, f"No paired interval: {reason}.")


def _table(side: Side) -> dict[str, Any] | None:
    """The rows of a cell by column; None where their digest is not that of the record."""
    fingerprint = side.record.fingerprint
    if not side.store.has(fingerprint):
        return None
    table: dict[str, Any] = side.store.rows(fingerprint).to_pydict()
    return table


def paired_rows(statistic: Statistic, first: dict[str, Any], second: dict[str, Any]) -> Paired:
    """Second minus first of two tables of rows by column, as `paired_difference` makes it."""
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
        return Paired(Estimate(0.0, 0.0, 0.0), SAME + _of_other_images(statistic, own))
    groups = np.asarray(first[GROUP]) if GROUP in first and first[GROUP] == _in_order(second, order) else None
    if statistic.kind == "proportion" and groups is None:
        return _of_shares(own[statistic.columns[0]], other[statistic.columns[0]])
    if len(order) == 1:
        return _none("of one image nothing is known about others")
    few = len(order) < FEW and (groups is None or len(np.unique(groups)) == 1)
    return Paired(_bootstrap(statistic, own, other, groups), _of_few(len(order)) if few else "")


def _of_shares(own: Floats, other: Floats) -> Paired:
    """Tango's interval of two columns of 0 and 1, over images that count for both."""
    counted = np.isfinite(own) & np.isfinite(other)
    change = other[counted] - own[counted]
    if not len(change):
        return _none("no image has a score on both sides")
    return Paired(paired_share(int((change > 0).sum()), int((change < 0).sum()), len(change)))


def _of_few(images: int) -> str:
    return (
        f"Of {images} images the interval is far too narrow: where two encoders are equal it leaves 0 out in 10 to "
        "50 % of cases."
    )


def _of_other_images(statistic: Statistic, rows: dict[str, Floats]) -> str:
    """By how much other images could differ; nothing where no interval for that is known."""
    counted = int(np.isfinite(rows[statistic.columns[0]]).sum())
    if statistic.kind != "proportion" or not counted:
        return ""
    most = 100 * paired_share(0, 0, counted).ci_high
    return f" Other images could differ by up to {most:.1f} points (Tango's 95 % interval for 0 of {counted})."


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
