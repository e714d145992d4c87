"""Whether two folders of results hold the same rows of images bit for bit, names and fingerprints apart.

    python scripts/compare_rows.py OLD NEW [--subset]

Cells are matched by encoder, dataset, split, task, target task, precision and attack, under today's names. The types
and bits of columns, the order of ids, metrics and intervals are compared; NaN equals NaN. A column or metric that only
NEW has is listed and is no difference. With `--subset`, cells that only one folder has are no difference either.
Exit code: 0 the same, 1 different.
"""

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from robustprobe.core.errors import UserError
from robustprobe.core.sizes import format_eps
from robustprobe.results.records import Record
from robustprobe.results.store import Store

FORMER_PREFIX, PREFIX = "second_", "knn_"


class Cell(NamedTuple):
    """A record and its rows, as arrays by today's name of the column."""

    record: Record
    columns: dict[str, NDArray[Any]]


class Largest(NamedTuple):
    """The largest difference, infinite where values cannot be subtracted, and its column."""

    size: float = 0.0
    column: str = ""


class CellComparison(NamedTuple):
    """What was compared of one cell, what differs, and what only the second has."""

    attack: str
    label: str
    rows: int
    columns: int
    faults: list[str]
    largest: Largest = Largest()
    added: frozenset[str] = frozenset()


def key(record: Record) -> tuple[Hashable, ...]:
    """What makes records of two versions the same cell.

    Not the eps that an attack was started from: versions record it differently for attacks that ignore it.
    """
    attack = tuple(record.attack.model_dump(exclude={"warm"}).items())
    return (record.encoder, record.dataset, record.split, record.task, record.target_task, record.precision, attack)


def label(record: Record) -> str:
    """A cell in words."""
    against = f" (made for {record.target_task})" if record.target_task not in ("", record.task) else ""
    attack = f"{record.attack.label} {format_eps(record.attack.eps, record.attack.norm)}{against}"
    return f"{record.encoder}, {record.images_of}, {record.task}: {attack}"


def read_cells(folder: Path) -> dict[Hashable, Cell]:
    """Every cell of a folder. Raises UserError for cells that cannot be told apart."""
    store, found = Store(folder), dict[Hashable, Cell]()
    for record in store.records():
        if key(record) in found:
            raise UserError(f"{folder} has two cells {label(record)}; compare folders of one suite each.")
        found[key(record)] = Cell(record, read_columns(store.rows(record.fingerprint)))
    return found


def read_columns(rows: pa.Table) -> dict[str, NDArray[Any]]:
    """Columns as arrays (N,), or (N, C) for lists, which have one length."""
    found = {}
    for name in rows.schema.names:
        column = rows.column(name).combine_chunks()
        today = PREFIX + name.removeprefix(FORMER_PREFIX) if name.startswith(FORMER_PREFIX) else name
        if pa.types.is_list(column.type):
            found[today] = np.asarray(column.flatten()).reshape(len(column), -1)
        else:
            found[today] = column.to_numpy(zero_copy_only=False)
    return found


def unequal(old: NDArray[Any], new: NDArray[Any]) -> NDArray[np.bool_]:
    """Where two arrays of one type and shape differ in a bit; NaN equals NaN."""
    if old.dtype.kind != "f":
        return np.asarray(old != new)
    bits = f"u{old.dtype.itemsize}"
    differs: NDArray[np.bool_] = (old.view(bits) != new.view(bits)) & ~(np.isnan(old) & np.isnan(new))
    return differs


def column_fault(name: str, old: NDArray[Any], new: NDArray[Any]) -> tuple[str, float]:
    """How a column differs, in words, and the largest difference; an empty text where it does not."""
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        return f"{name}: {old.dtype} {old.shape} and {new.dtype} {new.shape}", math.inf
    wrong = unequal(old, new)
    if not wrong.any():
        return "", 0.0
    gap = np.abs(old[wrong].astype(float) - new[wrong].astype(float)) if old.dtype.kind in "biuf" else np.array(np.nan)
    largest = float(np.nan_to_num(gap, nan=math.inf).max())
    return f"{name}: {int(wrong.sum())} of {wrong.size} values, by {largest:.3g} at most", largest


def metric_faults(old: Record, new: Record) -> list[str]:
    """Metrics whose value or interval differs, of images as they are and rounded to 8 bits."""
    found = []
    for kind in ("metrics", "metrics_8bit"):
        before, after = getattr(old, kind), getattr(new, kind)
        for name, interval in before.items():
            own = np.array(list(interval.model_dump().values()))
            other = np.array(list(after[name].model_dump().values())) if name in after else np.full_like(own, np.nan)
            if unequal(own, other).any():
                found.append(f"{kind} {name}: {own.tolist()} and {other.tolist() if name in after else 'none'}")
    return found


def compare_cells(old: Cell, new: Cell) -> CellComparison:
    """Two records of one cell and their rows."""
    before, after = old.columns, new.columns
    told = (old.record.attack.label, label(old.record), len(before["id"]), len(before))
    if not np.array_equal(before["id"], after["id"]):
        return CellComparison(*told, ["other images, or in another order"], Largest(math.inf, "id"))
    faults = [f"{name}: missing in the second" for name in before if name not in after]
    sizes = [Largest()]
    for name in before.keys() & after.keys():
        text, size = column_fault(name, before[name], after[name])
        faults += [text] * bool(text)
        sizes.append(Largest(size, name))
    faults += metric_faults(old.record, new.record)
    added = (after.keys() - before.keys()) | (new.record.metrics.keys() - old.record.metrics.keys())
    return CellComparison(*told, sorted(faults), max(sizes), frozenset(added))


def summary(compared: Iterable[CellComparison]) -> list[str]:
    """A table with a line per attack, and one for all."""
    by_attack = defaultdict[str, list[CellComparison]](list)
    for one in compared:
        by_attack[one.attack].append(one)
    every = [one for ones in by_attack.values() for one in ones]
    lines = [["attack", "cells", "rows", "columns", "differing", "largest difference"]]
    for attack, ones in [*sorted(by_attack.items()), ("all", every)]:
        counts = (len(ones), sum(o.rows for o in ones), sum(o.columns for o in ones), sum(bool(o.faults) for o in ones))
        size, column = max(one.largest for one in ones)
        lines.append([attack, *map(str, counts), f"{size:.3g} ({column})" if size else "0"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip() for line in lines]


def compare(old: Path, new: Path, subset: bool) -> tuple[list[str], bool]:
    """Lines that say what was found, and whether the rows are the same."""
    first, second = read_cells(old), read_cells(new)
    compared = [compare_cells(cell, second[k]) for k, cell in first.items() if k in second]
    alone = _alone(old, first, second) + _alone(new, second, first)
    added = sorted({name for one in compared for name in one.added})
    differing = [one for one in compared if one.faults]
    lines = summary(compared) if compared else ["no cell is in both"]
    lines += [f"only in {new}: {', '.join(added)}"] * bool(added) + alone
    lines += [f"{one.label}: {fault}" for one in differing for fault in one.faults]
    same = bool(compared) and not differing and (subset or not alone)
    return [*lines, "the same" if same else "different"], same


def _alone(folder: Path, own: dict[Hashable, Cell], other: dict[Hashable, Cell]) -> list[str]:
    return [f"only in {folder}: {label(cell.record)}" for k, cell in own.items() if k not in other]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--subset", action="store_true", help="cells that only one folder has are no difference")
    chosen = parser.parse_args(arguments)
    try:
        lines, same = compare(chosen.old, chosen.new, chosen.subset)
    except UserError as error:
        print(f"compare_rows: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
