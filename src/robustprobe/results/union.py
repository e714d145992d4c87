"""Several folders of results read as one; conflicting records are an error, and nothing is overwritten."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from robustprobe.core.errors import UserError
from robustprobe.results.example_images import Group
from robustprobe.results.labels import record_label
from robustprobe.results.records import Record
from robustprobe.results.store import Store

SHOWN = 5
INCIDENTAL = frozenset({"provenance", "suite", "schema_version", "checks", "checked_images", "dataset_content"})
"""Where and when a cell was measured, for which suite and how much it was checked, does not make it another cell."""


Place = Path | Store
"""A folder of results, or a store that may be a part of one."""


class Found(NamedTuple):
    """A record and the folder it was found in first."""

    record: Record
    store: Store


class FoundGroup(NamedTuple):
    """Example images and the folder they were found in first."""

    group: Group
    store: Store


def as_stores(places: Sequence[Place]) -> list[Store]:
    """Folders as stores; stores stay as they are."""
    return [place if isinstance(place, Store) else Store(place) for place in places]


def union(places: Sequence[Place]) -> list[Found]:
    """Every cell of several folders once; of the same cell the record that was checked on most images.

    Raises:
        UserError: no results, unreadable results, or folders with different numbers for one cell.
    """
    found: dict[str, Found] = {}
    conflicts: list[str] = []
    for store in as_stores(places):
        for record in store.records():
            known = found.setdefault(record.fingerprint, Found(record, store))
            # Telling which fields differ takes ten times as long as whether any does.
            same = known.record is record or known.record == record
            if not same and (fields := differing_fields(known.record, record)):
                conflicts.append(_conflict(known, Found(record, store), fields))
            elif _knows_more(record, known.record):
                found[record.fingerprint] = Found(record, store)
    if conflicts:
        more = f"\n  and {len(conflicts) - SHOWN} more" if len(conflicts) > SHOWN else ""
        raise UserError(
            "the folders hold different results for the same cells, and none is overwritten:\n  "
            + "\n  ".join(conflicts[:SHOWN])
            + f"{more}\nDelete the wrong record from its folder's cells/ and run the same command again."
        )
    return _with_content(list(found.values()))


def _knows_more(record: Record, other: Record) -> bool:
    """Whether a record of the same cell was checked on more images, or on as many and names the content of its data."""
    return (record.checked_images, record.dataset_content) > (other.checked_images, other.dataset_content)


def _with_content(found: list[Found]) -> list[Found]:
    """Older records say of which content their images are where a newer one of the same images does."""
    known = {f.record.dataset_digest: f.record.dataset_content for f in found if f.record.dataset_content}
    return [
        one
        if one.record.dataset_content or one.record.dataset_digest not in known
        else one._replace(record=one.record.model_copy(update={"dataset_content": known[one.record.dataset_digest]}))
        for one in found
    ]


def finished(places: Sequence[Place], aim: str) -> list[Found]:
    """The union of folders. Raises UserError where it has no finished cell, which leaves nothing to `aim`."""
    stores = as_stores(places)
    found = union(stores)
    if not found:
        where = ", ".join(str(store) for store in stores)
        raise UserError(f"no finished cells in {where}, so there is nothing to {aim}; run the suite first.")
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
    return f"{cell}: {', '.join(fields)} differ between {known.store} and {other.store} ({values})"


def _short(record: Record, field: str) -> str:
    if field == "metrics":
        return f"{record.metric} {record.headline.value:.6g}"
    return str(getattr(record, field))[:60]


def check_files(found: Sequence[Found], done: str) -> None:
    """Raises UserError where files of a cell do not match its record; nothing was `done`, such as `merged`."""
    damaged = [str(path) for f in found if (path := f.store.damaged(f.record))]
    if damaged:
        more = f" and {len(damaged) - SHOWN} more" if len(damaged) > SHOWN else ""
        raise UserError(
            f"{len(damaged)} cells have files that are missing or do not have the digest of their record: "
            f"{', '.join(damaged[:SHOWN])}{more}. Run their suite again in their folder; nothing was {done}."
        )
