"""Our results beside the numbers of Kowalczuk et al. (2024): the differences, and what may explain them."""

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from robustprobe.core.errors import unknown_name
from robustprobe.core.shared_names import shared_name
from robustprobe.core.sizes import format_eps
from robustprobe.report.paper.published import (
    MIXED,
    RULE,
    PaperCell,
    PaperChoice,
    PaperTable,
    choice_note,
    choose,
    is_attack,
    is_encoder,
    mixed,
    paper,
)
from robustprobe.report.tables.comparison import Comparison
from robustprobe.report.tables.matrix import MISSING, change_text, metric_text, size_text, threat_text
from robustprobe.report.tables.results import check_notes, value_text
from robustprobe.report.tables.sheet import Document, Row, Sheet, footnotes
from robustprobe.results.labels import attack_labels, head_text

if TYPE_CHECKING:
    from robustprobe.results.records import Record

DECIMALS = 2


class ComparedToPaper(NamedTuple):
    """A number of the paper, our record of the same cell, and notes on the two.

    `difference` is ours minus the paper's, NaN where there is none. `inside`: whether the paper's number, which is
    rounded, can lie in our interval.
    """

    cell: PaperCell
    choice: PaperChoice
    difference: float
    inside: bool | None
    notes: list[str]


def compare_paper(records: Iterable["Record"], deacl: str | None = None) -> Comparison:
    """Every cell of the paper's tables beside ours.

    Args:
        records: of one store, in any order.
        deacl: the name of the encoder that stands for the paper's DeACL checkpoint; None: any whose card says that it
            was hardened with DeACL from DINO v1.

    Raises:
        UserError: no record of an encoder `deacl`.
    """
    records = list(records)
    specs = {r.encoder for r in records}
    deacl = deacl if deacl is None else shared_name(deacl)
    if deacl is not None and deacl not in specs:
        raise unknown_name("encoder in these results", deacl, specs)
    compared = _compare(records, deacl)
    facts = paper()
    heading = {"paper": facts.source, "threat": facts.threat.model_dump(mode="json"), "rule": RULE}
    shown = [c.choice.record for c in compared if c.choice.record]
    sheets = [_sheet(table, [c for c in compared if c.cell.task == table.task]) for table in facts.tables]
    document = Document(sheets, [_summary(compared, records), *check_notes(shown)])
    return Comparison(document, heading, [_row(c) for c in compared])


def _compare(records: Sequence["Record"], deacl: str | None) -> list[ComparedToPaper]:
    compared = []
    for _, cells in groupby(paper().cells(), key=lambda cell: cell[:4]):
        row = [_compare_cell(cell, records, deacl) for cell in cells]
        if mixed(c.choice.record for c in row if c.choice.record):
            row = [c._replace(notes=[*c.notes, MIXED]) if c.choice.record else c for c in row]
        compared += row
    return compared


def _compare_cell(cell: PaperCell, records: Sequence["Record"], deacl: str | None) -> ComparedToPaper:
    candidates = [r for r in records if r.dataset == cell.dataset and is_encoder(r, cell, deacl)]
    choice = choose([r for r in candidates if is_attack(r, cell.task, cell.attack)])
    notes = [difference.text for difference in paper().differences if difference.concerns(cell)]
    if choice.record is None:
        return ComparedToPaper(cell, choice, math.nan, None, notes + _near_misses(cell, candidates))
    if choice.others:
        notes.append(choice_note(choice.others))
    ours, slack = choice.record.headline, paper().rounding
    # A hair is added for sums of decimals that binary numbers only come near to.
    inside = ours.ci_low - slack - 1e-9 <= cell.value <= ours.ci_high + slack + 1e-9
    return ComparedToPaper(cell, choice, ours.value - cell.value, inside, notes)


def _near_misses(cell: PaperCell, candidates: Sequence["Record"]) -> list[str]:
    """What was measured with the same attack, though not as in the paper."""
    near = [r for r in candidates if r.task == cell.task and r.attack.name == cell.attack]
    labels = sorted({_near_label(r, cell.task) for r in near})
    threat = f"{cell.attack} {format_eps(paper().threat.eps)}"
    return [f"Measured as {', '.join(labels)}, not as the paper's {threat}."] if labels else []


def _near_label(record: "Record", task: str) -> str:
    label = attack_labels([record.attack_key], task)[0]
    return label if record.split == "test" else f"{label} on {record.split}"


def _row(compared: ComparedToPaper) -> dict[str, Any]:
    cell, record = compared.cell, compared.choice.record
    table = next(t for t in paper().tables if t.task == cell.task)
    headline = record.headline if record else None
    return {
        **{key: getattr(cell, key) for key in ("task", "dataset", "encoder", "weights", "attack")},
        **{key: getattr(table, key) for key in ("metric", "unit", "higher_is_better")},
        "paper": cell.value,
        **{key: getattr(headline, key, None) for key in ("value", "ci_low", "ci_high")},
        "difference": compared.difference,
        "paper_in_interval": compared.inside,
        "n": record.n if record else None,
        "our_encoder": record.encoder if record else None,
        "steps": record.attack.steps if record else None,
        "iterate": record.attack.iterate if record else None,
        "head_recipe": record.head.recipe.get("recipe") if record else None,
        "image_size": size_text(record.image_size).replace(" × ", "x") if record else None,
        "precision": record.precision if record else None,
        "failed_checks": "; ".join(c.name for c in record.doubts) if record else None,
        "other_records": compared.choice.others,
        "fingerprint": record.fingerprint if record else None,
        "notes": compared.notes,
    }


def _sheet(table: PaperTable, compared: Sequence[ComparedToPaper]) -> Sheet:
    marks, notes = footnotes([c.notes for c in compared])
    rows = [
        Row([c.cell.dataset, _encoder_text(c.cell), c.cell.attack], [*_numbers(c), mark])
        for c, mark in zip(compared, marks, strict=True)
    ]
    metric = metric_text(table.metric, table.unit, table.higher_is_better)
    title = f"{table.task.capitalize()}: {metric}; diff: ours minus paper; in?: paper's number inside our interval"
    return Sheet(
        title,
        ["dataset", "encoder", "attack"],
        ["paper", "ours", "diff", "in?", "n", "notes"],
        rows,
        [*_conditions(compared), *_missing(compared), *notes],
        grouped=2,
    )


def _encoder_text(cell: PaperCell) -> str:
    return cell.encoder if cell.weights == "standard" else f"{cell.encoder} DeACL"


def _numbers(compared: ComparedToPaper) -> list[str]:
    record, printed = compared.choice.record, f"{compared.cell.value:.{DECIMALS}f}"
    if record is None:
        return [printed, *[MISSING] * 4]
    inside = "yes" if compared.inside else "no"
    return [printed, value_text(record), change_text(compared.difference), inside, str(record.n)]


def _conditions(compared: Sequence[ComparedToPaper]) -> list[str]:
    """How our numbers of a table were measured; nothing where there are none."""
    pairs = [(c.cell, c.choice.record) for c in compared if c.choice.record]
    if not pairs:
        return []
    records = [r for _, r in pairs]
    sizes = {f"{r.dataset} at {size_text(r.image_size)}" for r in records}
    facts = [
        *threat_text(records),
        "iterate " + " and ".join(sorted({r.attack.iterate for r in records})),
        "heads "
        + " and ".join(sorted({" ".join([str(r.head.recipe.get("recipe")), head_text(r)]).strip() for r in records})),
        " and ".join(sorted({r.precision for r in records})),
        ", ".join(sorted(sizes)),
        *sorted({f"{_encoder_text(cell)} is {r.encoder}" for cell, r in pairs if r.encoder != cell.encoder}),
    ]
    return [f"Ours: {'; '.join(facts)}."]


def _missing(compared: Sequence[ComparedToPaper]) -> list[str]:
    """The cells that were not measured; rows and datasets without any by name alone."""
    texts = []
    for dataset, found in groupby(compared, key=lambda c: c.cell.dataset):
        cells = list(found)
        rows = [_missing_in_row(list(row)) for _, row in groupby(cells, key=lambda c: _encoder_text(c.cell))]
        if any(rows):
            some = any(c.choice.record for c in cells)
            texts.append(f"{dataset}: {', '.join(filter(None, rows)) if some else 'all'}")
    return [f"Missing here: {'; '.join(texts)}."] if texts else []


def _missing_in_row(cells: Sequence[ComparedToPaper]) -> str:
    lacking = [c.cell.attack for c in cells if c.choice.record is None]
    name = _encoder_text(cells[0].cell)
    if len(lacking) == len(cells):
        return name
    return f"{name} ({' '.join(lacking)})" if lacking else ""


def _summary(compared: Sequence[ComparedToPaper], records: Sequence["Record"]) -> str:
    measured, facts = [c for c in compared if c.choice.record], paper()
    threat = facts.threat
    size = f"{threat.norm} {format_eps(threat.eps)}, {threat.steps} steps of {format_eps(threat.step_size)}"
    counted = f"{len(measured)} of the paper's {len(compared)} cells are measured here"
    agreeing = sum(c.inside is True for c in measured)
    found = f"; in {agreeing} of them the paper's number, which is rounded to 0.01, can lie in our 95 % interval"
    if not measured:
        benchmarks = sorted({f"{r.encoder} on {r.dataset}" for r in records})
        found = f"; there are results of {', '.join(benchmarks)}"
    return f"{counted}{found}. Paper: {facts.source}; {size} ({threat.origin})."
