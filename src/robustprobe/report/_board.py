"""The matrix of encoders by tasks and attacks at the largest eps: what was kept, places, and what is not there."""

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

from robustprobe.report._kept import Places, kept, mean_kept, places
from robustprobe.report._matrix import Column, attack_labels, attack_order, distinctions, eps_text, task_order
from robustprobe.spec import AttackSpec, format_eps
from robustprobe.stats import Estimate
from robustprobe.store import Record

CLEAN = AttackSpec(name="clean", eps=0, steps=1)


class Level(NamedTuple):
    """The ball whose attacks a board compares."""

    norm: str
    eps: float


class Bench(NamedTuple):
    """The columns of one task on one dataset."""

    task: str
    dataset: str
    metric: str
    unit: str
    higher_is_better: bool
    columns: list[Column]


class Kept(NamedTuple):
    """What the attack that left least, of those made for the task, left of a clean score."""

    attack: str
    clean: Record
    attacked: Record
    share: Estimate


class BoardRow(NamedTuple):
    """One encoder: a list of cells and what was kept, for each bench; places are None where a bench is incomplete."""

    encoder: str
    cells: list[list[Record | None]]
    benches: list[Kept | None]
    kept: Estimate | None
    places: Places | None
    missing: list[str]


class Board(NamedTuple):
    """Encoders whose every bench is complete, those that kept most first; then the others, unranked."""

    level: Level | None
    benches: list[Bench]
    rows: list[BoardRow]
    names: Mapping[tuple[Hashable, ...], str]
    places: Mapping[tuple[Hashable, ...], int]

    def encoder(self, record: Record) -> str | None:
        """The row that a record of any eps belongs to."""
        return self.names.get(_row_key(record))

    def bench(self, record: Record) -> int | None:
        """Which bench a record of any eps belongs to."""
        return self.places.get(_bench_key(record))

    @property
    def ranked(self) -> list[BoardRow]:
        return [row for row in self.rows if row.places]

    @property
    def incomplete(self) -> list[BoardRow]:
        return [row for row in self.rows if not row.places]

    @property
    def level_text(self) -> str:
        """`eps 8/255 (linf)`."""
        return f"eps {format_eps(self.level.eps, self.level.norm)} ({self.level.norm})" if self.level else "no eps"


def board(records: Sequence[Record]) -> Board:
    """The board of a store. Of two records of one cell the later one counts."""
    level = largest_level(records)
    chosen = [r for r in records if r.made_for in ("", r.task) and (r.attack.eps == 0 or at(level, r.attack))]
    chosen.sort(key=lambda r: (r.provenance.started, r.fingerprint))
    benches = _benches(chosen)
    cells = {(_row_key(r), _bench_key(r), _column_key(r)): r for r in chosen}
    first = {_row_key(r): r for r in chosen}
    facts = [{"weights": r.encoder_digest[:8], "precision": r.precision, "recipe": _recipe(r)} for r in first.values()]
    endings = distinctions([r.encoder for r in first.values()], facts)
    rows = []
    for (key, record), ending in zip(first.items(), endings, strict=True):
        lines = [[cells.get((key, b, (c.attack, c.made_for))) for c in bench.columns] for b, bench in benches.items()]
        rows.append(_row(record.encoder + ending, list(benches.values()), lines))
    names = {key: row.encoder for key, row in zip(first, rows, strict=True)}
    return Board(level, list(benches.values()), _placed(rows), names, {key: k for k, key in enumerate(benches)})


def largest_level(records: Sequence[Record]) -> Level | None:
    """The largest eps of attacks made for a task, or of any attack; Linf goes before other norms."""
    attacks = [r.attack for r in records if r.attack.eps > 0]
    own = [r.attack for r in records if r.attack.eps > 0 and r.made_for == r.task]
    found = {Level(a.norm, a.eps) for a in own or attacks}
    return max(found, key=lambda level: (level.norm == "linf", level.norm, level.eps), default=None)


def at(level: Level | None, attack: AttackSpec) -> bool:
    """Whether an attack stays in this very ball."""
    return level is not None and (attack.norm, attack.eps) == level


def _recipe(record: Record) -> str:
    return str(record.head.recipe.get("recipe", ""))


def _row_key(record: Record) -> tuple[Hashable, ...]:
    return (record.encoder, record.encoder_digest, record.precision, _recipe(record))


def _bench_key(record: Record) -> tuple[Hashable, ...]:
    # Encoders are shown images at the size they prefer, so that the size is no part of what is compared.
    return (*task_order(record.task), record.dataset, record.dataset_digest, record.split, record.image_ids_digest)


def _column_key(record: Record) -> tuple[AttackSpec, str]:
    # What an attack would have done is no part of a clean score.
    return (record.attack if record.attack.eps else CLEAN, record.made_for)


def _benches(records: Sequence[Record]) -> dict[tuple[Hashable, ...], Bench]:
    grouped: dict[tuple[Hashable, ...], list[Record]] = {}
    for record in records:
        grouped.setdefault(_bench_key(record), []).append(record)
    ordered = {key: grouped[key] for key in sorted(grouped, key=lambda key: [str(part) for part in key])}
    first = [some[0] for some in ordered.values()]
    facts = [
        {"images": str(r.n), "split": r.split, "choice": r.image_ids_digest[:8], "content": r.dataset_digest[:8]}
        for r in first
    ]
    endings = distinctions([(r.task, r.dataset) for r in first], facts)
    return {
        key: Bench(r.task, r.dataset + ending, r.metric, r.unit, r.higher_is_better, _columns(some))
        for (key, some), r, ending in zip(ordered.items(), first, endings, strict=True)
    }


def _columns(records: Sequence[Record]) -> list[Column]:
    task = records[0].task
    keys = sorted({_column_key(r) for r in records}, key=lambda key: attack_order(key[0], key[1], task))
    full = attack_labels(keys, task)
    # All of a board are at one eps, so that labels need not say it where they differ without.
    short = [label.replace(f" {eps_text(attack)}", "", 1) for label, (attack, _) in zip(full, keys, strict=True)]
    labels = short if len(set(short)) == len(short) else full
    return [Column(*key, label) for key, label in zip(keys, labels, strict=True)]


def _row(encoder: str, benches: Sequence[Bench], cells: list[list[Record | None]]) -> BoardRow:
    shares = [_kept(bench, line) for bench, line in zip(benches, cells, strict=True)]
    missing = [m for bench, line in zip(benches, cells, strict=True) for m in _missing(bench, line)]
    known = [k.share for k in shares if k]
    lacking = missing or [
        f"{bench.task} on {bench.dataset}: a share of the clean score"
        for bench, share in zip(benches, shares, strict=True)
        if share is None
    ]
    return BoardRow(encoder, cells, shares, mean_kept(known) if known else None, None, lacking)


def _missing(bench: Bench, line: Sequence[Record | None]) -> list[str]:
    return [
        f"{bench.task} on {bench.dataset}: {column.label}"
        for column, record in zip(bench.columns, line, strict=True)
        if record is None and (column.made_for or column.attack.name == "clean")
    ]


def _kept(bench: Bench, line: Sequence[Record | None]) -> Kept | None:
    pairs = list(zip(bench.columns, line, strict=True))
    clean = next((r for c, r in pairs if r and c.attack.name == "clean"), None)
    own = [(c.label, r) for c, r in pairs if r and c.made_for]
    if clean is None or not own:
        return None
    shares = [(label, r, kept(clean.headline, r.headline, bench.higher_is_better)) for label, r in own]
    known = [Kept(label, clean, r, share) for label, r, share in shares if share]
    return min(known, key=lambda k: k.share.value, default=None)


def _placed(rows: list[BoardRow]) -> list[BoardRow]:
    whole = sorted(
        (row for row in rows if row.kept and not row.missing),
        key=lambda row: (-(row.kept.value if row.kept else 0), row.encoder),
    )
    spans = places([row.kept for row in whole if row.kept])
    ranked = [row._replace(places=span) for row, span in zip(whole, spans, strict=True)]
    return [*ranked, *sorted((row for row in rows if row not in whole), key=lambda row: row.encoder)]
