"""Two folders of results: the differences of their numbers cell by cell, and what else differs."""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from robustprobe.core.spec import format_eps
from robustprobe.metrics.paired import Paired, Side, paired_difference
from robustprobe.report.tables.comparison import Comparison
from robustprobe.report.tables.matrix import MISSING, attack_order, change_text, metric_text, size_text
from robustprobe.report.tables.results import check_notes, value_text
from robustprobe.report.tables.sheet import Document, Row, Sheet, footnotes
from robustprobe.results.labels import attack_labels

if TYPE_CHECKING:
    from robustprobe.results.records import Record
    from robustprobe.results.store import Store


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


class ComparedCell(NamedTuple):
    """A cell of two folders: its records, the difference second minus first with its interval, and notes."""

    pair: RecordPair
    difference: float
    paired: Paired
    notes: list[str]


Fact = Callable[["Record"], str]
TELLING: tuple[Fact, ...] = (
    lambda r: str(r.attack.steps),
    lambda r: r.attack.iterate,
    lambda r: str(r.attack.restarts),
    lambda r: str(r.attack.seed),
    lambda r: str(r.head.recipe.get("recipe")),
    lambda r: r.image_ids_digest,
    lambda r: size_text(r.image_size),
    lambda r: r.precision,
    lambda r: r.encoder_digest,
    lambda r: r.head.fingerprint,
    lambda r: r.attack.model_dump_json(),
)
"""Facts in which records of the same cell may differ, the most informative first."""


def cell_key(record: "Record") -> tuple[Hashable, ...]:
    """What names a cell in both folders."""
    attack = record.attack
    size = (attack.norm, round(attack.eps, 9)) if attack.eps else ()
    return (record.encoder, record.dataset, record.task, record.target_task, attack.label, *size)


def match(first: Iterable["Record"], second: Iterable["Record"]) -> list[RecordPair]:
    """The cells of two folders, matched by `cell_key`, and within one key by steps, iterate and other settings.

    Every record is in one pair, except older ones of a cell with the same settings. In order of the tables.
    """
    sides = (_by_key(first), _by_key(second))
    pairs = [p for key in sides[0] | sides[1] for p in _match(sides[0].get(key, []), sides[1].get(key, []), TELLING)]
    return sorted(pairs, key=_order)


def _by_key(records: Iterable["Record"]) -> dict[Hashable, list["Record"]]:
    found: dict[Hashable, list[Record]] = {}
    for record in records:
        found.setdefault(cell_key(record), []).append(record)
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


def compare_folders(first: "Store", second: "Store") -> Comparison:
    """Every cell of two stores: both values, the difference second minus first, and what may explain it.

    The difference has a paired bootstrap interval where both cells have rows of the same images.

    Args:
        first: a store with records.
        second: another one, or the same.

    Raises:
        UserError: a folder without results, or with a record that cannot be read.
    """
    records = (first.records(), second.records())
    compared = [_compare(pair, first, second, records) for pair in match(*records)]
    tasks = dict.fromkeys(c.pair.any.task for c in compared)
    sheets = [_sheet([c for c in compared if c.pair.any.task == task]) for task in tasks]
    heading = {"first": str(first.folder), "second": str(second.folder)}
    document = Document(sheets, _notes(heading, compared))
    return Comparison(document, heading, [_row(c) for c in compared])


def _compare(
    pair: RecordPair, first: "Store", second: "Store", records: tuple[list["Record"], list["Record"]]
) -> ComparedCell:
    if pair.first is None or pair.second is None:
        side = 0 if pair.second is None else 1
        note = f"Only in the {('first', 'second')[side]}{_near_misses(pair.any, records[1 - side])}."
        return ComparedCell(pair, math.nan, Paired(None), [note])
    paired = paired_difference(Side(first, pair.first), Side(second, pair.second))
    difference = pair.second.headline.value - pair.first.headline.value
    notes = [*differing(pair.first, pair.second), *([paired.note] if paired.note else [])]
    return ComparedCell(pair, difference, paired, notes)


def _near_misses(record: "Record", others: Iterable["Record"]) -> str:
    """The nearest the other folder has: the same attack at another size, or with other settings."""

    def names(r: "Record") -> tuple[str, ...]:
        return (r.encoder, r.dataset, r.task, r.target_task, r.attack.label)

    near = [r for r in others if names(r) == names(record)]
    labels = dict.fromkeys(f"{format_eps(r.attack.eps, r.attack.norm)} {r.attack.norm}" for r in near)
    if not labels:
        return ""
    if any(cell_key(r) == cell_key(record) for r in near):
        return "; the other has it with other settings"
    return f"; the other has it at eps {', '.join(labels)}"


def differing(first: "Record", second: "Record") -> list[str]:
    """What differs between two records of a cell beside their numbers, as in `steps: 20, then 100`."""
    own, other = _facts(first), _facts(second)
    told = [f"{name}: {own.get(name, MISSING)}, then {other.get(name, MISSING)}." for name in own | other]
    told = [text for name, text in zip(own | other, told, strict=True) if own.get(name) != other.get(name)]
    changed = first.encoder_digest != second.encoder_digest
    if (
        first.head.fingerprint != second.head.fingerprint
        and not changed
        and not any(t.startswith("head") for t in told)
    ):
        told.append("head: fitted anew, with the same settings but on other data, images or code.")
    return told


def _facts(record: "Record") -> dict[str, str]:
    attack, head = record.attack, record.head
    climbs = {"step size": format_eps(attack.step_size), "iterate": attack.iterate} if attack.eps else {}
    return {
        "steps": str(attack.steps),
        **climbs,
        "restarts": str(attack.restarts),
        "random start": "yes" if attack.random_start else "no",
        "seed": str(attack.seed),
        "precision": record.precision,
        "images": str(record.n),
        "image size": size_text(record.image_size),
        "split": record.split,
        "choice of images": record.image_ids_digest[:8],
        "encoder weights": record.encoder_digest[:8],
        "head train images": str(head.train_images),
        **{f"head {key}": str(value) for key, value in sorted(head.recipe.items())},
    }


def _row(compared: ComparedCell) -> dict[str, Any]:
    pair, record, estimate = compared.pair, compared.pair.any, compared.paired.estimate
    return {
        **{key: getattr(record, key) for key in ("encoder", "dataset", "task", "target_task")},
        "attack": record.attack.label,
        **{key: getattr(record.attack, key) for key in ("eps", "norm")},
        **{key: getattr(record, key) for key in ("metric", "unit", "higher_is_better")},
        **_side("first", pair.first),
        **_side("second", pair.second),
        "difference": compared.difference,
        "difference_ci_low": estimate.ci_low if estimate else None,
        "difference_ci_high": estimate.ci_high if estimate else None,
        "notes": compared.notes,
    }


def _side(name: str, record: "Record | None") -> dict[str, Any]:
    headline = record.headline if record else None
    values = {
        **{key: getattr(headline, key, None) for key in ("value", "ci_low", "ci_high")},
        "n": record.n if record else None,
        "steps": record.attack.steps if record else None,
        "precision": record.precision if record else None,
        "head_recipe": record.head.recipe.get("recipe") if record else None,
        "image_size": size_text(record.image_size).replace(" × ", "x") if record else None,
        "fingerprint": record.fingerprint if record else None,
    }
    return {f"{name}_{key}": value for key, value in values.items()}


def _sheet(compared: Sequence[ComparedCell]) -> Sheet:
    marks, notes = footnotes([c.notes for c in compared])
    first = compared[0].pair.any
    rows = [
        Row([r.dataset, r.encoder, label], [value_text(c.pair.first), value_text(c.pair.second), _difference(c), mark])
        for c, r, label, mark in zip(compared, [c.pair.any for c in compared], _labels(compared), marks, strict=True)
    ]
    metric = metric_text(first.metric, first.unit, first.higher_is_better)
    title = f"{first.task.capitalize()}: {metric}; diff: second minus first, with a paired 95 % interval"
    return Sheet(title, ["dataset", "encoder", "attack"], ["first", "second", "diff", "notes"], rows, notes, grouped=2)


def _labels(compared: Sequence[ComparedCell]) -> list[str]:
    """Names of attacks, with what tells namesakes of one dataset and encoder apart."""
    benchmarks: dict[Hashable, list[ComparedCell]] = {}
    for c in compared:
        benchmarks.setdefault((c.pair.any.dataset, c.pair.any.encoder), []).append(c)
    return [
        label
        for own in benchmarks.values()
        for label in attack_labels([c.pair.any.attack_key for c in own], own[0].pair.any.task)
    ]


def _difference(compared: ComparedCell) -> str:
    if compared.pair.first is None or compared.pair.second is None:
        return MISSING
    estimate, value = compared.paired.estimate, change_text(compared.difference)
    if estimate is None:
        return value
    return f"{value} [{change_text(estimate.ci_low)}, {change_text(estimate.ci_high)}]"


def _notes(heading: dict[str, str], compared: Sequence[ComparedCell]) -> list[str]:
    both = [c for c in compared if c.pair.first and c.pair.second]
    paired = sum(c.paired.estimate is not None for c in both)
    alone = [sum(c.pair[side] is None for c in compared) for side in (1, 0)]
    clear = sum(e.ci_low > 0 or e.ci_high < 0 for e in (c.paired.estimate for c in both) if e)
    counts = (
        f"Cells in both: {len(both)}; only in the first: {alone[0]}; only in the second: {alone[1]}. Differences with "
        f"an interval, by a bootstrap that draws the images of both jointly: {paired}, of which {clear} exclude 0."
    )
    failed = [
        note
        for name in RecordPair._fields
        for note in check_notes([r for r in (getattr(c.pair, name) for c in compared) if r], f"{name}, ")
    ]
    return [f"first: {heading['first']}; second: {heading['second']}. {counts}", *failed]
