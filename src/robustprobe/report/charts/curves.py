"""Scores over the epochs of a hardening run."""

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from robustprobe.report.charts.figures import Figure, axis_title, axis_top, ends, unit_text
from robustprobe.report.tables.board import Board, at
from robustprobe.report.tables.matrix import interval_text
from robustprobe.results.labels import distinctions, run_text
from robustprobe.results.records import Record

if TYPE_CHECKING:
    import altair as alt


def curve_figures(records: Sequence[Record], board: Board) -> list[Figure]:
    """Scores over epochs of hardening, a figure for each benchmark; cards of encoders say their run and epoch."""
    checkpoints = [r for r in records if r.encoder_epoch is not None]
    names = _run_names(checkpoints)
    found = {
        position: _rows([r for r in checkpoints if board.benchmark(r) == position], board, names)
        for position in range(len(board.benchmarks))
    }
    # A line has the same colour, dash and marker in all figures.
    lines = sorted({str(row["line"]) for rows in found.values() for row in rows}, key=lambda n: ("clean" not in n, n))
    return [_figure(rows, board, position, lines) for position, rows in found.items() if rows]


def _run_key(record: Record) -> tuple[Hashable, ...]:
    return (record.encoder_teacher, record.encoder_method, record.encoder_run)


def _run_names(records: Sequence[Record]) -> dict[tuple[Hashable, ...], str]:
    """Names of the hardening runs that left at least two checkpoints, unique; all empty where there is one run."""
    epochs: dict[tuple[Hashable, ...], set[int | None]] = {}
    for record in records:
        epochs.setdefault(_run_key(record), set()).add(record.encoder_epoch)
    runs = {_run_key(r): r for r in records if len(epochs[_run_key(r)]) > 1}
    if len(runs) == 1:
        return dict.fromkeys(runs, "")
    texts = [run_text(r) for r in runs.values()]
    endings = distinctions(texts, [{"run": r.encoder_run[:8]} for r in runs.values()])
    return {key: text + ending for key, text, ending in zip(runs, texts, endings, strict=True)}


def _rows(records: Sequence[Record], board: Board, names: Mapping[tuple[Hashable, ...], str]) -> list[dict[str, Any]]:
    """A row for each line and epoch; of two records of one point the later one counts."""
    rows: dict[tuple[str, int | None], dict[str, Any]] = {}
    for record in sorted(records, key=lambda r: (r.target_task, r.attack.name, r.provenance.started)):
        wanted = record.is_clean or (at(board.level, record.attack) and not record.is_transfer)
        if _run_key(record) in names and wanted and math.isfinite(record.headline.value):
            row = _row(record, names[_run_key(record)])
            rows[str(row["line"]), record.encoder_epoch] = row
    return list(rows.values())


def _row(record: Record, run: str) -> dict[str, Any]:
    interval, epoch = record.headline, record.encoder_epoch
    low, high = ends(interval)
    attack = "clean" if record.is_clean else record.attack.label
    line = f"{attack}, {run}" if run else attack
    return {
        **{"line": line, "epoch": epoch, "value": interval.value, "low": low, "high": high},
        **{"table": interval_text(interval), "words": f"{line}, epoch {epoch}: {interval_text(interval)}"},
    }


def _figure(rows: list[dict[str, Any]], board: Board, position: int, lines: Sequence[str]) -> Figure:
    benchmark, epochs = board.benchmarks[position], sorted({int(row["epoch"]) for row in rows})
    rows.sort(key=lambda row: (lines.index(str(row["line"])), int(row["epoch"])))
    here = dict.fromkeys(str(row["line"]) for row in rows)
    return Figure(
        kind="curve",
        title=f"{benchmark.task.capitalize()} on {benchmark.dataset}, {board.level_text}",
        words=f"Line chart: {benchmark.metric} over epochs {epochs[0]} to {epochs[-1]} of hardening, "
        f"for {', '.join(here)}.",
        draw=partial(
            _draw,
            rows,
            y=axis_title(benchmark),
            top=axis_top(benchmark, [float(r["high"]) for r in rows]),
            names=lines,
        ),
        headings=["attack", "epoch", f"{benchmark.metric}{unit_text(benchmark)}"],
        rows=[[str(r["line"]), str(r["epoch"]), str(r["table"])] for r in rows],
    )


def _draw(*content: Any, **options: Any) -> "alt.TopLevelMixin":
    from robustprobe.report.charts.vega import curve_chart

    return curve_chart(*content, **options)
