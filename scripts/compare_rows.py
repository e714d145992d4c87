"""Whether two folders of results hold the same rows of images bit for bit, names and fingerprints apart.

    python scripts/compare_rows.py OLD NEW [--subset]

Cells are matched by encoder, dataset, split, task, target task and attack, under today's names. Columns, ids, metrics
and intervals are compared exactly; NaN equals NaN. A column that is new in NEW is listed and is no difference. With
`--subset`, cells that only one folder has are no difference either. Exit code: 0 the same, 1 different.
"""

import argparse
import sys
from collections.abc import Hashable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from robustprobe.results.records import Record
from robustprobe.results.store import Store

FORMER_PREFIX, PREFIX = "second_", "knn_"


class Cell(NamedTuple):
    """A record and its rows."""

    record: Record
    rows: pa.Table


class Difference(NamedTuple):
    """What differs in one cell."""

    cell: str
    what: str


def key(record: Record) -> tuple[Hashable, ...]:
    """What makes records of two versions the same cell."""
    attack = record.attack
    spec = (attack.name, attack.objective, attack.eps, attack.norm, attack.steps, attack.restarts, attack.seed)
    return (record.encoder, record.dataset, record.split, record.task, record.target_task, record.precision, spec)


def cells(folder: Path) -> dict[Hashable, Cell]:
    """Every cell of a folder."""
    store = Store(folder)
    return {key(record): Cell(record, store.rows(record.fingerprint)) for record in store.records()}


def columns(rows: pa.Table) -> dict[str, np.ndarray]:
    """Columns as arrays, under today's names; lists of one length as (N, C)."""
    found = {}
    for name in rows.schema.names:
        column = rows.column(name).combine_chunks()
        today = name.replace(FORMER_PREFIX, PREFIX, 1) if name.startswith(FORMER_PREFIX) else name
        if pa.types.is_list(column.type):
            found[today] = np.asarray(column.flatten()).reshape(len(column), -1)
        else:
            found[today] = column.to_numpy(zero_copy_only=False)
    return found


def differences(name: str, old: Cell, new: Cell) -> list[Difference]:
    """What differs between two records of one cell."""
    before, after = columns(old.rows), columns(new.rows)
    found = [Difference(name, f"{column} is missing") for column in before.keys() - after.keys()]
    for column in before.keys() & after.keys():
        a, b = before[column], after[column]
        numbers = a.dtype.kind == "f"
        if a.shape != b.shape:
            found.append(Difference(name, f"{column}: {a.shape} and {b.shape}"))
        elif not np.array_equal(a, b, equal_nan=numbers):
            largest = f", by {np.nanmax(np.abs(a - b)):.3g} at most" if numbers else ""
            found.append(Difference(name, f"{column}: {int((a != b).sum())} of {a.size} values{largest}"))
    for metric, interval in old.record.metrics.items():
        told = new.record.metrics.get(metric)
        if told is None or not np.array_equal(
            [interval.value, interval.ci_low, interval.ci_high], [told.value, told.ci_low, told.ci_high], equal_nan=True
        ):
            found.append(Difference(name, f"metric {metric}: {interval} and {told}"))
    return found


def label(record: Record) -> str:
    """A cell in words."""
    against = f" (made for {record.target_task})" if record.target_task not in ("", record.task) else ""
    return f"{record.encoder}, {record.dataset}, {record.task}: {record.attack.label}{against}"


def compare(old: Path, new: Path, subset: bool) -> tuple[list[str], bool]:
    """Lines that say what was found, and whether the rows are the same."""
    first, second = cells(old), cells(new)
    shared = [k for k in first if k in second]
    found = [d for k in shared for d in differences(label(first[k].record), first[k], second[k])]
    alone = [f"only in {old}: {label(first[k].record)}" for k in first if k not in second]
    alone += [f"only in {new}: {label(second[k].record)}" for k in second if k not in first]
    added = sorted({c for k in shared for c in columns(second[k].rows).keys() - columns(first[k].rows).keys()})
    rows = sum(first[k].rows.num_rows for k in shared)
    compared = sum(first[k].rows.num_columns for k in shared)
    lines = [f"{len(shared)} cells, {rows} rows and {compared} columns compared; {len(found)} differences"]
    lines += [f"new columns: {', '.join(added)}"] * bool(added)
    lines += [f"{d.cell}: {d.what}" for d in found] + alone
    return lines, bool(shared) and not found and (subset or not alone)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--subset", action="store_true", help="cells that only one folder has are no difference")
    chosen = parser.parse_args()
    lines, same = compare(chosen.old, chosen.new, chosen.subset)
    print("\n".join(lines))
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
