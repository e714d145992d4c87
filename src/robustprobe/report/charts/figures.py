"""A figure: rows of numbers, the chart drawn from them, a text alternative and a table; here score against eps."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from robustprobe.core.sizes import format_eps
from robustprobe.report.charts.series import MOST, EncoderStyle, series
from robustprobe.report.tables.board import Board, TaskOnDataset
from robustprobe.report.tables.matrix import interval_text, number_text
from robustprobe.results.labels import eps_text
from robustprobe.results.records import Interval, Record

if TYPE_CHECKING:
    import altair as alt

SPECIFIC, CONTROL = "specific", "control"
FEW = 4
"""With more encoders than these a chart has no lines of the control."""
HEADROOM = 1.05


class Figure(NamedTuple):
    """A chart, drawn only when `draw` is called (`legend`: with a legend of its own), and all it shows as text."""

    kind: str
    title: str
    words: str
    draw: Callable[..., "alt.TopLevelMixin"]
    headings: list[str]
    rows: list[list[str]]


class _Cell(NamedTuple):
    """A record and the row of the board it belongs to."""

    encoder: EncoderStyle
    record: Record


def drawn_series(board: Board) -> list[EncoderStyle]:
    """The encoders that charts show, the most robust first."""
    return series([row.encoder for row in board.rows[:MOST]])


def eps_figures(records: Sequence[Record], board: Board) -> list[Figure]:
    """Score against eps under the strongest task-specific attack, a figure for each benchmark."""
    return [
        figure
        for position, benchmark in enumerate(board.benchmarks)
        if (figure := _eps_figure(_cells(records, board, position), benchmark, board, ""))
    ]


def label_free_figures(records: Sequence[Record], board: Board) -> list[Figure]:
    """Score against eps under each attack that saw neither head nor labels."""
    return [
        figure
        for position, benchmark in enumerate(board.benchmarks)
        for name in dict.fromkeys(c.key.attack.label for c in benchmark.columns if c.key.access == "encoder")
        if (figure := _eps_figure(_cells(records, board, position), benchmark, board, name))
    ]


def _cells(records: Sequence[Record], board: Board, position: int) -> list[_Cell]:
    known = {s.name: s for s in drawn_series(board)}
    found = [(board.encoder(r), r) for r in records if board.benchmark(r) == position]
    cells = [_Cell(known[name], r) for name, r in found if name in known and math.isfinite(r.headline.value)]
    return sorted(cells, key=lambda cell: (cell.encoder.colour, cell.record.attack.eps, cell.record.provenance.started))


def _eps_figure(cells: Sequence[_Cell], benchmark: TaskOnDataset, board: Board, attack: str) -> Figure | None:
    if board.level is None:
        return None
    norm = board.level.norm
    own = [c for c in cells if c.record.is_clean or (c.record.attack.norm == norm and _under(c.record, attack))]
    own = _strongest(own)
    if all(c.record.is_clean for c in own):
        return None
    shown = list({c.encoder.name: c.encoder for c in own}.values())
    control = [c for c in cells if c.record.is_control and c.record.attack.norm == norm]
    control = _strongest([*(c for c in own if c.record.is_clean), *control]) if len(shown) <= FEW else []
    rows = [_eps_row(c, SPECIFIC) for c in own] + [_eps_row(c, CONTROL) for c in control]
    under = attack or "the strongest task-specific attack"
    drawn = [float(r["high"]) for r in rows] + ([] if benchmark.chance is None else [benchmark.chance])
    draw = partial(
        _draw_eps,
        rows,
        shown,
        x=f"eps ({'Linf, of 255 grey levels' if norm == 'linf' else norm})",
        y=axis_title(benchmark),
        top=axis_top(benchmark, drawn),
        chance=benchmark.chance,
    )
    return Figure(
        kind="eps",
        title=f"{benchmark.task.capitalize()} on {benchmark.dataset}{f', under {attack}' if attack else ''}",
        words=_eps_words(benchmark, own, under),
        draw=draw,
        headings=["encoder", "attack", "eps", f"{benchmark.metric}{unit_text(benchmark)}"],
        rows=[
            [
                c.encoder.name,
                _label(c.record),
                format_eps(c.record.attack.eps, norm),
                interval_text(c.record.headline),
            ]
            for c in (*own, *(c for c in control if not c.record.is_clean))
        ],
    )


def _draw_eps(*content: Any, **options: Any) -> "alt.TopLevelMixin":
    from robustprobe.report.charts.vega import eps_chart

    return eps_chart(*content, **options)


def _label(record: Record) -> str:
    return "clean" if record.is_clean else record.attack.label


def _under(record: Record, attack: str) -> bool:
    if record.source_encoder:
        return False
    return record.attack.label == attack if attack else record.is_task_specific


def _strongest(cells: Sequence[_Cell]) -> list[_Cell]:
    """For each encoder and eps the cell whose score is worst."""
    found: dict[tuple[str, float], _Cell] = {}
    for cell in cells:
        key = (cell.encoder.name, cell.record.attack.eps)
        if key not in found or _badness(cell.record) >= _badness(found[key].record):
            found[key] = cell
    return list(found.values())


def _badness(record: Record) -> float:
    return -record.headline.value if record.higher_is_better else record.headline.value


def _eps_row(cell: _Cell, kind: str) -> dict[str, Any]:
    record, interval = cell.record, cell.record.headline
    eps = record.attack.eps * (255 if record.attack.norm == "linf" else 1)
    what = _label(record) if record.is_clean else f"{record.attack.label} {eps_text(record.attack)}"
    low, high = ends(interval)
    return {
        **{"encoder": cell.encoder.short, "eps": round(eps, 6), "value": interval.value, "low": low, "high": high},
        **{"kind": kind, "words": f"{cell.encoder.name}, {what}: {interval_text(interval)}"},
    }


def ends(interval: Interval) -> tuple[float, float]:
    """Ends of an interval; the value in place of an end that is not finite."""
    low, high = (x if math.isfinite(x) else interval.value for x in (interval.ci_low, interval.ci_high))
    return low, high


def _eps_words(benchmark: TaskOnDataset, cells: Sequence[_Cell], under: str) -> str:
    parts = []
    for encoder in dict.fromkeys(c.encoder.name for c in cells):
        own = [c.record for c in cells if c.encoder.name == encoder]
        first, last = own[0], own[-1]
        parts.append(
            f"{encoder} {number_text(first.headline.value)} at eps {format_eps(first.attack.eps, first.attack.norm)}"
            f" to {number_text(last.headline.value)} at {format_eps(last.attack.eps, last.attack.norm)}"
        )
    what = f"{benchmark.metric} of {benchmark.task} on {benchmark.dataset}"
    return f"Line chart: {what} against eps under {under}. {'; '.join(parts)}."


def axis_title(benchmark: TaskOnDataset) -> str:
    """`RMSE in m (lower is better ↓)`."""
    direction = "higher is better ↑" if benchmark.higher_is_better else "lower is better ↓"
    return f"{benchmark.metric}{unit_text(benchmark)} ({direction})"


def unit_text(benchmark: TaskOnDataset) -> str:
    """` in m`; nothing for shares."""
    return "" if benchmark.unit == "share" else f" in {benchmark.unit}"


def axis_top(benchmark: TaskOnDataset, ends: Sequence[float]) -> float:
    """Where a score axis ends: a full tenth above all intervals; never above 1 for a share."""
    highest = max(ends, default=1.0) or 1.0
    step = 0.1 if highest <= 2 else 0.5
    top = math.ceil(highest * HEADROOM / step) * step
    return min(1.0, top) if benchmark.unit == "share" and highest <= 1 else top
