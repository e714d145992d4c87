"""The numbers of a store as tables: for people (rich, Markdown, LaTeX) and for programs (CSV, JSON)."""

import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from robustprobe.core.errors import UserError, unknown_name
from robustprobe.report.paper.published import paper_layout
from robustprobe.report.tables import sheet
from robustprobe.report.tables.blocks import BRACKETS, MARK, Notes, print_notes, task_sheets, transfer_sheets
from robustprobe.report.tables.corruptions import attack_tables, corruption_sheets
from robustprobe.report.tables.encoder_transfer import encoder_transfer_sheet, encoder_transfers
from robustprobe.report.tables.feature_gaps import COLUMNS, feature_gap_sheet
from robustprobe.report.tables.fitting import print_fitting
from robustprobe.report.tables.matrix import (
    MISSING,
    TaskTable,
    TransferMatrix,
    failed_checks,
    in_order,
    interval_text,
    size_text,
    task_tables,
    transfer_matrices,
    trusted,
)
from robustprobe.report.tables.patches import patch_sheets
from robustprobe.report.tables.remarks import remarks
from robustprobe.report.tables.sheet import Document, Row, Sheet, csv_text, finite, json_text
from robustprobe.report.tables.strongest import headline_column
from robustprobe.results.labels import USUAL_HEADS, failed_checks_text
from robustprobe.results.protocol import protocol_name

if TYPE_CHECKING:
    from rich.console import Console

    from robustprobe.results.records import Record

KEYS = (
    *(
        "encoder",
        "dataset",
        "task",
        "attack",
        "eps",
        "metric",
        "value",
        "ci_low",
        "ci_high",
        "n",
        "higher_is_better",
        "unit",
    ),
    *("target_task", "value_8bit", "norm", "steps", "iterate", "seed", "split", "image_size", "precision"),
    *("objective", "restarts", "tuning", "failed_checks", "forwards", "backwards"),
    *("other_metrics", "head_recipe", "head_kind", "head_training", "head_reads", "view"),
    *(f"{name}_gap" for name in COLUMNS),
    *("largest_perturbation", "suite", "started", "fingerprint"),
    *("encoder_digest", "dataset_digest", "protocol", "source_encoder"),
)
LAYOUTS = ("all", "paper")
NO_RECORDS = "No finished cells yet."
NO_PAPER_RECORDS = "No finished cells of the paper's attacks at its eps."


def table_rows(records: Iterable["Record"], transfer: bool = False) -> list[dict[str, Any]]:
    """One row per cell, tidy: `value`, `ci_low`, `ci_high` are the headline metric's, in `unit`; eps is in [0, 1].

    Args:
        records: any, in any order.
        transfer: also the cells whose attack was made for another task than the one that judged.

    Returns:
        Rows with the keys `KEYS`, by task, dataset, encoder and attack. Values that are not finite stay NaN.
        `other_metrics` maps the name of each further metric to its `value`, `ci_low` and `ci_high`.
    """
    known = list(records)
    name = protocol_name(known)
    return [_row(record, name) for record in in_order(known, transfer)]


def _row(record: "Record", protocol: str) -> dict[str, Any]:
    attack, headline, gaps = record.attack, record.headline, record.feature_gaps
    rounded = record.metrics_8bit.get(record.metric)
    values: dict[str, Any] = {
        **{key: getattr(record, key) for key in KEYS if key in type(record).model_fields},
        **{key: getattr(attack, key) for key in ("eps", "norm", "steps", "iterate", "seed", "objective", "restarts")},
        **record.cost.model_dump(),
        **{key: getattr(headline, key) for key in ("value", "ci_low", "ci_high")},
        "attack": attack.name,
        "tuning": attack.tuning_text,
        "failed_checks": failed_checks_text(record),
        "protocol": protocol,
        "value_8bit": rounded.value if rounded else math.nan,
        "image_size": size_text(record.image_size).replace(" × ", "x"),
        "started": record.provenance.started,
        "other_metrics": {
            name: finite(interval.model_dump()) for name, interval in record.metrics.items() if name != record.metric
        },
        "head_recipe": record.head.recipe.get("recipe", ""),
        **{f"head_{name}": record.head.recipe.get(name, usual) for name, usual in USUAL_HEADS.items()},
        "head_reads": record.head.reads,
        "view": record.head.view,
        **{f"{name}_gap": gaps and getattr(gaps, name).value for name in COLUMNS},
    }
    return {key: values[key] for key in KEYS}


def check_layout(transfer: bool, layout: str) -> None:
    """Raises UserError for an unknown layout, or for transfer tables in the paper's layout, which has none."""
    if layout not in LAYOUTS:
        raise unknown_name("table layout", layout, LAYOUTS)
    if transfer and layout == "paper":
        raise UserError("the paper's tables have no attacks made for other tasks; give --transfer or --layout paper.")


def render(records: Iterable["Record"], format: str, transfer: bool = False, layout: str = "all") -> str:
    """A store's numbers as text.

    Args:
        records: any, in any order.
        format: `rich` (as on a terminal, without colour), `md`, `latex` (booktabs and graphicx), `csv` or `json`.
        transfer: also the cells whose attack was made for another task than the one that judged.
        layout: `all`, or `paper` for the cells of the paper's tables alone: one record per cell.

    Raises:
        UserError: unknown format or layout, or transfer tables in the paper's layout.
    """
    check_layout(transfer, layout)
    if format in ("csv", "json"):
        chosen = paper_layout(records).records if layout == "paper" else records
        rows = [finite(row) for row in table_rows(chosen, transfer)]
        if format == "json":
            return json_text(rows)
        return csv_text([{**row, "other_metrics": json.dumps(row["other_metrics"])} for row in rows], KEYS)
    if format == "rich":
        return sheet.as_terminal(lambda console: print_rich(records, transfer, console, layout))
    return sheet.text(document(records, transfer, layout), format)


def document(records: Iterable["Record"], transfer: bool = False, layout: str = "all") -> Document:
    """A table per task; with `transfer` also one for each encoder and dataset that several tasks judged.

    Args:
        records: any, in any order.
        transfer: also the transfer tables.
        layout: `all`, or `paper` for the columns of the paper's tables alone.

    Raises:
        UserError: unknown layout, or transfer tables in the paper's layout, which has none.
    """
    check_layout(transfer, layout)
    if layout == "paper":
        found = paper_layout(records)
        sheets = [_task_sheet(table) for table in found.tables]
        return Document(sheets, [*found.notes, *remarks(found.records)], NO_PAPER_RECORDS)
    records = list(records)
    tables = task_tables(records)
    matrices = transfer_matrices(records) if transfer else []
    shown = [r for t in tables for line in t.lines for r in line.cells if r]
    shown += [r for matrix in matrices for row in matrix.rows for r in row.cells if r]
    sheets = [_task_sheet(table) for table in attack_tables(tables)]
    sheets += [*corruption_sheets(records, value_text), *patch_sheets(records, value_text)]
    sheets += [*(_transfer_sheet(matrix) for matrix in matrices)]
    gaps = feature_gap_sheet(records)
    sheets += [gaps] if gaps else []
    between = encoder_transfers(records)
    sheets += [encoder_transfer_sheet(matrix, value_text) for matrix in between]
    shown += [r for matrix in between for row in matrix.rows for r in row.cells if r]
    between_notes = check_notes(r for matrix in between for row in matrix.rows for r in row.cells if r)
    return Document(sheets, [*remarks(shown), *between_notes], NO_RECORDS)


def _task_sheet(table: TaskTable) -> Sheet:
    headline = headline_column(table.columns, table.lines, value_text)
    last = [[cell] for cell in headline.cells] if headline else [[] for _ in table.lines]
    rows = [
        Row([line.dataset, line.encoder], [*(value_text(r) for r in line.cells), *end])
        for line, end in zip(table.lines, last, strict=True)
    ]
    labels = [column.label for column in table.columns] + ([headline.label] if headline else [])
    notes = check_notes(r for line in table.lines for r in line.cells if r)
    return Sheet(table.title, ["dataset", "encoder"], labels, rows, notes, best=_best(table))


def _best(table: TaskTable) -> frozenset[tuple[int, int]]:
    """Rows and columns of the best value of each dataset and column, where two encoders or more were measured."""
    found: dict[tuple[str, int], list[tuple[float, int]]] = {}
    for place, line in enumerate(table.lines):
        for column, record in enumerate(line.cells):
            if record and math.isfinite(record.headline.value):
                value = record.headline.value * (1 if record.higher_is_better else -1)
                found.setdefault((line.dataset, column), []).append((value, place))
    several = {key: values for key, values in found.items() if len(values) > 1}
    return frozenset(
        (place, key[1]) for key, values in several.items() for value, place in values if value == max(values)[0]
    )


def _transfer_sheet(matrix: TransferMatrix) -> Sheet:
    rows = [Row([row.target_task, row.label], [value_text(r) for r in row.cells]) for row in matrix.rows]
    notes = check_notes(r for row in matrix.rows for r in row.cells if r)
    return Sheet(matrix.title, ["made for", "attack"], [f"judged by {judge}" for judge in matrix.judges], rows, notes)


def check_notes(records: Iterable["Record"], where: str = "") -> list[str]:
    """What the failed sanity checks of the numbers that `value_text` marks mean; each sentence begins with `where`."""
    shown = {r.fingerprint: r for r in records}
    return [f"{MARK} {where}{meaning}" for meaning in failed_checks(shown.values())]


def value_text(record: "Record | None") -> str:
    """`0.430 [0.380, 0.480]`, marked where a sanity check failed; a dash where nothing was measured."""
    if record is None:
        return MISSING
    return interval_text(record.headline) + ("" if trusted(record) else f" {MARK}")


def print_rich(
    records: Iterable["Record"],
    transfer: bool,
    console: "Console",
    layout: str = "all",
    verbose: bool = False,
    pointer: str = "What was measured where: robustprobe table -v",
) -> None:
    """Print the tables for people: a block per task and eps in the width of the console, and numbered notes.

    Args:
        transfer: also the transfer tables.
        layout: `all`, or `paper` for the columns of the paper's tables alone.
        verbose: every finding of the sanity checks, not one line for each cause.
        pointer: where those findings are, where they are not printed.
    """
    check_layout(transfer, layout)
    known = list(records)
    if layout == "paper" or not known:
        sheet.print_rich(document(known, transfer, layout), console)
        return
    notes = Notes()
    for table in attack_tables(task_tables(known)):
        for one in task_sheets(table, notes):
            print_fitting(one, console)
    for one in (*corruption_sheets(known, notes.value), *patch_sheets(known, notes.value)):
        print_fitting(one, console)
        for text in one.notes:
            console.print(f"{text}\n", highlight=False)
    for one in transfer_sheets(known, notes) if transfer else []:
        print_fitting(one, console)
    for matrix in encoder_transfers(known):
        print_fitting(encoder_transfer_sheet(matrix, notes.value), console)
    gaps = feature_gap_sheet(known)
    if gaps:
        print_fitting(gaps, console)
    console.print(f"{BRACKETS[:-1]}; protocol {protocol_name(known)}", highlight=False)
    for text in remarks(known):
        console.print(text, highlight=False)
    print_notes(notes, console, verbose, pointer)
