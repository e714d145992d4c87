"""Results of several folders in one: checked, copied as they are, never overwritten."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from robustprobe.results.store import Store
from robustprobe.results.union import check_files, finished, union_groups


class MergeResult(NamedTuple):
    """What a merge copied, and what was there already."""

    cells: int
    groups: int
    known: int


def merge(folders: Sequence[Path], output: Path) -> MergeResult:
    """Copy every cell of some folders, its rows and its example images into one; nothing is written on a conflict.

    Args:
        folders: what `robustprobe run --out` wrote.
        output: a new folder, or one with results, which are kept.

    Raises:
        UserError: no results, different results for one cell, or files whose digest is not that of their record.
    """
    target = Store(output)
    held = [output] if (output / "cells").is_dir() else []
    found = finished([*held, *folders], "merge")
    new = [f for f in found if f.store.folder != output]
    check_files(new, "merged")
    target.prepare()
    known = {group.group for group in target.groups()}
    groups = [g for g in union_groups([Store(f) for f in folders]) if g.group.group not in known]
    target.copy_cells([(cell.store, cell.record.fingerprint) for cell in new])
    for group in groups:
        target.copy_group(group.store, group.group.group)
    return MergeResult(len(new), len(groups), len(found) - len(new))
