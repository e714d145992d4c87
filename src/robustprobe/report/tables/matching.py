"""Which cells of two sides belong together: of two folders by their names, of two encoders by what was measured."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from robustprobe.core.errors import UserError, unknown_name
from robustprobe.core.shared_names import shared_name
from robustprobe.report.tables.matrix import attack_order, size_text
from robustprobe.results.labels import head_text

if TYPE_CHECKING:
    from robustprobe.results.records import Record
    from robustprobe.results.store import Store

SHORTEST_DIGEST = 6


class RecordPair(NamedTuple):
    """The records of one cell in the first and in the second folder; at least one is there."""

    first: "Record | None"
    second: "Record | None"

    @property
    def any(self) -> "Record":
        """The record that names the cell."""
        record = self.first or self.second
        if record is None:
            raise ValueError("a pair without records")
        return record


Fact = Callable[["Record"], str]
SETTINGS: tuple[Fact, ...] = (
    lambda r: str(r.attack.steps),
    lambda r: r.attack.iterate,
    lambda r: str(r.attack.restarts),
    lambda r: str(r.attack.seed),
    lambda r: str(r.head.recipe.get("recipe")),
    head_text,
    lambda r: r.image_ids_digest,
    lambda r: size_text(r.image_size),
    lambda r: r.precision,
    lambda r: r.attack.model_dump_json(),
)
TELLING: tuple[Fact, ...] = (
    *SETTINGS[:-1],
    lambda r: r.encoder_digest,
    lambda r: r.head.fingerprint,
    SETTINGS[-1],
)
"""Facts in which records of the same cell may differ, the most informative first."""


def cell_key(record: "Record") -> tuple[Hashable, ...]:
    """What names a cell in both folders."""
    return (record.encoder, *benchmark_key(record))


def benchmark_key(record: "Record") -> tuple[Hashable, ...]:
    """What names a cell of any encoder."""
    attack = record.attack
    size = (attack.norm, round(attack.eps, 9)) if attack.eps else ()
    return (record.dataset, record.task, record.target_task, record.source_encoder, attack.label, *size)


def match(first: Iterable["Record"], second: Iterable["Record"], across: bool = False) -> list[RecordPair]:
    """The cells of two folders, matched by `cell_key`, and within one key by steps, iterate and other settings.

    Every record is in one pair, except older ones of a cell with the same settings. In order of the tables.

    Args:
        across: the sides are two encoders, so that neither names nor weights need be the same.
    """
    key_of, facts = (benchmark_key, SETTINGS) if across else (cell_key, TELLING)
    sides = [_by_key(records, key_of) for records in (first, second)]
    pairs = [p for key in sides[0] | sides[1] for p in _match(sides[0].get(key, []), sides[1].get(key, []), facts)]
    return sorted(pairs, key=_order)


def _by_key(records: Iterable["Record"], key_of: Callable[["Record"], Hashable]) -> dict[Hashable, list["Record"]]:
    found: dict[Hashable, list[Record]] = {}
    for record in records:
        found.setdefault(key_of(record), []).append(record)
    return found


def _match(first: list["Record"], second: list["Record"], facts: Sequence[Fact]) -> list[RecordPair]:
    if len(first) <= 1 and len(second) <= 1:
        return [RecordPair(first[0] if first else None, second[0] if second else None)]
    if not facts:
        return [RecordPair(_newest(first), _newest(second))]
    pairs = []
    for value in sorted({facts[0](r) for r in (*first, *second)}):
        own, other = ([r for r in side if facts[0](r) == value] for side in (first, second))
        pairs += _match(own, other, facts[1:])
    return pairs


def _newest(records: list["Record"]) -> "Record | None":
    return max(records, key=lambda r: (r.provenance.started, r.fingerprint), default=None)


def _order(pair: RecordPair) -> tuple[object, ...]:
    record = pair.any
    attack = attack_order(record.attack_key, record.task)
    return (record.task, record.dataset, record.encoder, *attack, record.fingerprint)


def records_of_encoder(store: "Store", wanted: str | None) -> list["Record"]:
    """The records of one encoder, by its name or the beginning of its digest."""
    records = store.records()
    if wanted is None:
        return records
    found = [r for r in records if r.encoder in (wanted, shared_name(wanted))] or [
        r for r in records if len(wanted) >= SHORTEST_DIGEST and r.encoder_digest.startswith(wanted)
    ]
    if not found:
        raise unknown_name(f"encoder of {store}", wanted, {r.encoder for r in records})
    if len(digests := sorted({r.encoder_digest[:12] for r in found})) > 1:
        raise UserError(
            f"{store} holds {len(digests)} encoders called '{wanted}'; name one by its digest: "
            f"--encoder {' or --encoder '.join(digests)}."
        )
    return found


def nothing_in_common(first: "Store", second: "Store", sides: Sequence[Sequence["Record"]]) -> str:
    """Why two sides cannot be compared, and what to do."""
    encoders = [sorted({r.encoder for r in side}) for side in sides]
    names = f"{first} holds {_some(encoders[0])}, {second} {_some(encoders[1])}"
    if encoders[0] != encoders[1] and _common(sides):
        in_python = f"rp.compare(first, second, encoders=['{encoders[0][0]}', '{encoders[1][0]}'])"
        in_shell = f"robustprobe compare {first} {second} --encoder '{encoders[0][0]}' --encoder '{encoders[1][0]}'"
        return (
            f"no cell is in both: {names}. To compare two encoders, name them: "
            f"{in_python if first.name or second.name else in_shell}."
        )
    held = [_some(sorted({f"{r.images_of} {r.task} {r.attack.sized_label}" for r in side})) for side in sides]
    return (
        f"no cell is in both: the first has {held[0]}; the second has {held[1]}. Run both with the same datasets, "
        "attacks and eps."
    )


def _common(sides: Sequence[Sequence["Record"]]) -> bool:
    keys = [{benchmark_key(r) for r in side} for side in sides]
    return bool(keys[0] & keys[1])


def _some(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
