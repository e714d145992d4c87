"""Several folders of results read as one; conflicting records are an error, and nothing is overwritten."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from robustprobe.core.errors import UserError
from robustprobe.results.labels import record_label
from robustprobe.results.records import Group, Record
from robustprobe.results.store import Store

SHOWN = 5
INCIDENTAL = frozenset({"provenance", "suite", "schema_version"})
"""Where and when a cell was measured, and for which suite, does not make it another cell."""


class Found(NamedTuple):
    """A record and the folder it was found in first."""

    record: Record
    store: Store


class FoundGroup(NamedTuple):
    """Example images and the folder they were found in first."""

    group: Group
    store: Store


def union(folders: Sequence[Path]) -> list[Found]:
    """Every cell of several folders once.

    Raises:
        UserError: no results, unreadable results, or folders with different numbers for one cell.
    """
    found: dict[str, Found] = {}
    conflicts: list[str] = []
    for store in (Store(folder) for folder in folders):
        for record in store.records():
            known = found.setdefault(record.fingerprint, Found(record, store))
            # Telling which fields differ takes ten times as long as whether any does.
            same = known.record is record or known.record == record
            if not same and (fields := differing_fields(known.record, record)):
                conflicts.append(_conflict(known, Found(record, store), fields))
    if conflicts:
        more = f"\n  and {len(conflicts) - SHOWN} more" if len(conflicts) > SHOWN else ""
        raise UserError(
            "the folders hold different results for the same cells, and none is overwritten:\n  "
            + "\n  ".join(conflicts[:SHOWN])
            + f"{more}\nDelete the wrong record from its folder's cells/ and run the same command again."
        )
    return list(found.values())


def finished(folders: Sequence[Path], aim: str) -> list[Found]:
    """The union of folders. Raises UserError where it has no finished cell, which leaves nothing to `aim`."""
    found = union(folders)
    if not found:
        raise UserError(
            f"no finished cells in {', '.join(map(str, folders))}, so there is nothing to {aim}; run the suite first."
        )
    return found


def union_groups(stores: Sequence[Store]) -> list[FoundGroup]:
    """Every group of example images once: of namesakes the one with most images."""
    found: dict[str, FoundGroup] = {}
    for store in stores:
        for group in store.groups():
            known = found.get(group.group)
            if known is None or len(group.examples) > len(known.group.examples):
                found[group.group] = FoundGroup(group, store)
    return list(found.values())


def differing_fields(first: Record, second: Record) -> list[str]:
    """Names of the fields in which two records of one cell differ, but for those that are incidental."""
    own, other = (json.loads(r.model_dump_json(exclude=set(INCIDENTAL))) for r in (first, second))
    # As text, since NaN equals itself there.
    return [key for key in own if json.dumps(own[key]) != json.dumps(other[key])]


def _conflict(known: Found, other: Found, fields: list[str]) -> str:
    record = known.record
    label = record_label(record)
    cell = f"{record.encoder}, {record.dataset}, {record.task}, {label} ({record.fingerprint})"
    values = f"{_short(known.record, fields[0])} and {_short(other.record, fields[0])}"
    return f"{cell}: {', '.join(fields)} differ between {known.store.folder} and {other.store.folder} ({values})"


def _short(record: Record, field: str) -> str:
    if field == "metrics":
        return f"{record.metric} {record.headline.value:.6g}"
    return str(getattr(record, field))[:60]
