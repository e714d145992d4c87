"""Two folders of results, or two encoders: the differences of their numbers cell by cell, and what else differs."""

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from robustprobe.core.errors import UserError
from robustprobe.core.sizes import format_eps, threat_size_text
from robustprobe.metrics.paired import Paired, Side, paired_difference
from robustprobe.metrics.significance import p_value
from robustprobe.report.tables.comparison import Comparison
from robustprobe.report.tables.matching import (
    RecordPair,
    benchmark_key,
    cell_key,
    match,
    nothing_in_common,
    records_of_encoder,
)
from robustprobe.report.tables.matrix import MISSING, change_text, metric_text, size_text
from robustprobe.report.tables.norm_unions import NOTE, NormUnion, compared_sheets, known_unions
from robustprobe.report.tables.remarks import remarks
from robustprobe.report.tables.results import check_notes, value_text
from robustprobe.report.tables.sheet import Document, Row, Sheet, footnotes
from robustprobe.report.tables.verdict import Judgement, corrected, finding, verdict
from robustprobe.results.labels import USUAL_HEADS, attack_labels, thread_counts
from robustprobe.results.union import Found

if TYPE_CHECKING:
    from robustprobe.results.records import Record
    from robustprobe.results.store import Store


WEIGHTS = "encoder weights"


class ComparedCell(NamedTuple):
    """A cell of two folders: its records, the difference second minus first with its interval, and notes."""

    pair: RecordPair
    difference: float
    paired: Paired
    notes: list[str]


def compare_folders(first: "Store", second: "Store", encoders: Sequence[str] = ()) -> Comparison:
    """Every cell of two stores: both values, the difference second minus first, and what may explain it.

    The difference has a paired bootstrap interval where both cells have rows of the same images.

    Args:
        first: a store with records.
        second: another one, or the same.
        encoders: nothing: all, matched by name. Two: the first in the first store against the second in the second
            one, each by its name or the beginning of its digest. One: that in both.

    Raises:
        UserError: a folder without results, or with a record that cannot be read; an unknown encoder; no common cell.
    """
    if len(encoders) > 2:
        raise UserError(f"{len(encoders)} encoders are named; two are compared at a time.")
    across = len(encoders) == 2
    wanted = (encoders[0], encoders[-1]) if encoders else (None, None)
    sides = [records_of_encoder(store, name) for store, name in zip((first, second), wanted, strict=True)]
    pairs = match(sides[0], sides[1], across)
    if not any(pair.first and pair.second for pair in pairs):
        raise UserError(nothing_in_common(first, second, sides))
    compared = [_compare(pair, first, second, sides, across) for pair in pairs]
    tasks = dict.fromkeys(c.pair.any.task for c in compared)
    sheets = [_sheet([c for c in compared if c.pair.any.task == task], across) for task in tasks]
    union_sheets = compared_sheets(_unions(first, sides[0]), _unions(second, sides[1]), across)
    names = ("the first", "the second")
    heading: dict[str, Any] = {"first": str(first), "second": str(second)}
    if across:
        names = (sides[0][0].encoder, sides[1][0].encoder)
        names = names if names[0] != names[1] else ("the first", "the second")
        heading |= {"first_encoder": sides[0][0].encoder, "second_encoder": sides[1][0].encoder}
    judgements = {position: j for position, c in enumerate(compared) if (j := _judgement(c))}
    p_values = dict(zip(judgements, corrected(list(judgements.values())), strict=True))
    said = verdict(list(judgements.values()), *names)
    document = Document(
        [*sheets, *union_sheets], [*_notes(heading, compared), *([NOTE] if union_sheets else []), *said]
    )
    return Comparison(
        document,
        {**heading, "verdict": said},
        [_row(c, judgements.get(position), p_values.get(position)) for position, c in enumerate(compared)],
    )


def _unions(store: "Store", records: Sequence["Record"]) -> list[NormUnion]:
    """The unions of norms of a side; none where its rows cannot be read, as its notes say then."""
    try:
        return known_unions([Found(record, store) for record in records])
    except UserError:
        return []


def _judgement(compared: ComparedCell) -> Judgement | None:
    """What the difference says; None for a cell that one side lacks."""
    first, second = compared.pair.first, compared.pair.second
    if first is None or second is None:
        return None
    said = finding(compared.paired, second.higher_is_better)
    return Judgement(second, compared.paired, said, first.headline.value)


def _compare(
    pair: RecordPair, first: "Store", second: "Store", records: Sequence[Sequence["Record"]], across: bool
) -> ComparedCell:
    if pair.first is None or pair.second is None:
        side = 0 if pair.second is None else 1
        note = f"Only in the {('first', 'second')[side]}{_near_misses(pair.any, records[1 - side], across)}."
        return ComparedCell(pair, math.nan, Paired(None), [note])
    paired = paired_difference(Side(first, pair.first), Side(second, pair.second))
    difference = pair.second.headline.value - pair.first.headline.value
    notes = [*differing(pair.first, pair.second, across), *([paired.note] if paired.note else [])]
    return ComparedCell(pair, difference, paired, notes)


def _near_misses(record: "Record", others: Iterable["Record"], across: bool) -> str:
    """The nearest the other folder has: the same attack at another size, or with other settings."""
    key_of = benchmark_key if across else cell_key

    def names(r: "Record") -> tuple[str, ...]:
        return ("" if across else r.encoder, r.dataset, r.task, r.target_task, r.attack.label)

    near = [r for r in others if names(r) == names(record)]
    labels = dict.fromkeys(threat_size_text(r.attack.eps, r.attack.norm) for r in near)
    if not labels:
        return ""
    if any(key_of(r) == key_of(record) for r in near):
        return "; the other has it with other settings"
    return f"; the other has it at {', '.join(labels)}"


def differing(first: "Record", second: "Record", across: bool = False) -> list[str]:
    """What differs between two records of a cell beside their numbers, as in `steps: 20, then 100`.

    Args:
        across: of two encoders, whose weights differ of course.
    """
    own, other = _facts(first), _facts(second)
    if across:
        own, other = ({k: v for k, v in facts.items() if k != WEIGHTS} for facts in (own, other))
    if not (own["threads"] and other["threads"]):  # on a GPU, and in older results
        own, other = ({k: v for k, v in facts.items() if k != "threads"} for facts in (own, other))
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
    climbs = {"step size": format_eps(attack.step_size, attack.norm), "iterate": attack.iterate} if attack.eps else {}
    return {
        "steps": str(attack.steps),
        **climbs,
        "restarts": str(attack.restarts),
        "random start": "yes" if attack.random_start else "no",
        "seed": str(attack.seed),
        "options": attack.tuning_text or MISSING,
        "precision": record.precision,
        "threads": thread_counts([record]),
        "images": str(record.n),
        "image size": size_text(record.image_size),
        "attacked at": f"{record.attack_at} size",
        "split": record.split,
        "choice of images": record.image_ids_digest[:8],
        WEIGHTS: record.encoder_digest[:8],
        "head train images": str(head.train_images),
        **{f"head {key}": str(value) for key, value in sorted(({**USUAL_HEADS, **head.recipe}).items())},
    }


def _row(compared: ComparedCell, judgement: Judgement | None, p_holm: float | None) -> dict[str, Any]:
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
        "finding": judgement.finding if judgement else None,
        "p_value": p_value(estimate) if estimate else None,
        "p_holm": p_holm,
        "images_for_2_points": judgement.images_needed if judgement else None,
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
        "encoder": record.encoder if record else None,
        "encoder_digest": record.encoder_digest if record else None,
        "fingerprint": record.fingerprint if record else None,
    }
    return {f"{name}_{key}": value for key, value in values.items()}


def _sheet(compared: Sequence[ComparedCell], across: bool) -> Sheet:
    marks, notes = footnotes([c.notes for c in compared])
    first = compared[0].pair.any
    rows = [
        Row(
            [r.dataset, *([] if across else [r.encoder]), label],
            [value_text(c.pair.first), value_text(c.pair.second), _difference(c), mark],
        )
        for c, r, label, mark in zip(compared, [c.pair.any for c in compared], _labels(compared), marks, strict=True)
    ]
    metric = metric_text(first.metric, first.unit, first.higher_is_better)
    title = f"{first.task.capitalize()}: {metric}; diff: second minus first, with a paired 95 % interval"
    names = ["dataset", *([] if across else ["encoder"])]
    columns = ["first", "second", "diff", "notes"]
    return Sheet(title, [*names, "attack"], columns, rows, notes, grouped=len(names))


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
        f"a paired interval over the images of both: {paired}, of which {clear} exclude 0."
    )
    failed = [
        note
        for name in RecordPair._fields
        for note in check_notes([r for r in (getattr(c.pair, name) for c in compared) if r], f"{name}, ")
    ]
    sides = "; ".join(
        f"{name}: {', '.join(heading[key] for key in (f'{name}_encoder', name) if key in heading)}"
        for name in RecordPair._fields
    )
    said = remarks(r for c in both for r in (c.pair.first, c.pair.second) if r)
    return [f"{sides}. {counts}", *said, *failed]
