"""What each chart of the page shows: its rows of numbers, the chart, the words instead of it, and a table of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from robustprobe.core.spec import format_eps
from robustprobe.report.charts.series import MOST, EncoderStyle, checkpoint, series
from robustprobe.report.tables.board import Board, TaskOnDataset, at
from robustprobe.report.tables.matrix import interval_text, number_text
from robustprobe.results.records import Interval, Record

if TYPE_CHECKING:
    import altair as alt

OWN, NOISE = "own", "noise"
FEW = 4
"""Encoders up to which a chart also has a line of noise for each."""
HEADROOM = 1.05


class Figure(NamedTuple):
    """A chart, drawn only when it is called (`legend`: with names of its own), and all it says as text."""

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
    """The encoders that charts tell apart, the most robust first."""
    return series([row.encoder for row in board.rows[:MOST]])


def eps_figures(records: Sequence[Record], board: Board) -> list[Figure]:
    """Score against eps, a figure for each bench under its own attacks."""
    return [
        figure
        for position, benchmark in enumerate(board.benchmarks)
        if (figure := _eps_figure(_cells(records, board, position), benchmark, board, ""))
    ]


def blind_figures(records: Sequence[Record], board: Board) -> list[Figure]:
    """The same for each attack that saw no head."""
    return [
        figure
        for position, benchmark in enumerate(board.benchmarks)
        for name in dict.fromkeys(
            c.attack.label for c in benchmark.columns if not c.target_task and c.attack.name not in ("clean", NOISE)
        )
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
    own = [c for c in cells if is_clean(c.record) or (c.record.attack.norm == norm and _under(c.record, attack))]
    own = _strongest(own)
    if not any(c.record.attack.eps > 0 for c in own):
        return None
    shown = list({c.encoder.name: c.encoder for c in own}.values())
    noise = [c for c in cells if c.record.attack.name == NOISE and c.record.attack.norm == norm]
    noise = _strongest([*(c for c in own if is_clean(c.record)), *noise]) if len(shown) <= FEW else []
    rows = [_eps_row(c, OWN) for c in own] + [_eps_row(c, NOISE) for c in noise]
    under = attack or "its own strongest attack"
    draw = partial(
        _draw_eps,
        rows,
        shown,
        x=f"eps ({'Linf, of 255 grey levels' if norm == 'linf' else norm})",
        y=axis_title(benchmark),
        top=axis_top(benchmark, [float(r["high"]) for r in rows]),
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
                c.record.attack.label,
                format_eps(c.record.attack.eps, norm),
                interval_text(c.record.headline),
            ]
            for c in (*own, *(n for n in noise if n.record.attack.eps > 0))
        ],
    )


def _draw_eps(*content: Any, **options: Any) -> "alt.TopLevelMixin":
    from robustprobe.report.charts.vega import eps_chart

    return eps_chart(*content, **options)


def is_clean(record: Record) -> bool:
    """Whether a record is of images that nobody attacked."""
    return record.attack.name == "clean"


def _under(record: Record, attack: str) -> bool:
    return record.attack.label == attack if attack else record.target_task == record.task


def _strongest(cells: Sequence[_Cell]) -> list[_Cell]:
    """For each encoder and eps the cell whose score is worst."""
    found: dict[tuple[str, float], _Cell] = {}
    for cell in cells:
        key = (cell.encoder.name, cell.record.attack.eps)
        if key not in found or _harm(cell.record) >= _harm(found[key].record):
            found[key] = cell
    return list(found.values())


def _harm(record: Record) -> float:
    return -record.headline.value if record.higher_is_better else record.headline.value


def _eps_row(cell: _Cell, kind: str) -> dict[str, Any]:
    record, interval = cell.record, cell.record.headline
    eps = record.attack.eps * (255 if record.attack.norm == "linf" else 1)
    what = record.attack.label if record.attack.eps == 0 else f"{record.attack.label} {format_eps(record.attack.eps)}"
    low, high = ends(interval)
    return {
        **{"encoder": cell.encoder.short, "eps": round(eps, 6), "value": interval.value, "low": low, "high": high},
        **{"kind": kind, "words": f"{cell.encoder.name}, {what}: {interval_text(interval)}"},
    }


def ends(interval: Interval) -> tuple[float, float]:
    """Ends of an interval; the value where they are no numbers."""
    low, high = (x if math.isfinite(x) else interval.value for x in (interval.ci_low, interval.ci_high))
    return low, high


def _eps_words(benchmark: TaskOnDataset, cells: Sequence[_Cell], under: str) -> str:
    parts = []
    for encoder in dict.fromkeys(c.encoder.name for c in cells):
        own = [c.record for c in cells if c.encoder.name == encoder]
        first, last = own[0], own[-1]
        parts.append(
            f"{encoder} {number_text(first.headline.value)} at eps {format_eps(first.attack.eps)}"
            f" to {number_text(last.headline.value)} at {format_eps(last.attack.eps)}"
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


def curve_figures(records: Sequence[Record], board: Board) -> list[Figure]:
    """Scores over epochs of hardening, a figure per task on a dataset; epochs are those of the encoders' cards."""
    found = {position: _curve_rows(records, board, position) for position in range(len(board.benchmarks))}
    names = {str(row["line"]) for rows in found.values() for row in rows}
    # In all figures a line has the colour, dash and marker of its name.
    lines = sorted(names, key=lambda line: ("clean" not in line, line))
    return [_curve_figure(rows, board, position, lines) for position, rows in found.items() if _epochs(rows)[1:]]


def _epochs(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    return sorted({int(row["epoch"]) for row in rows})


def _curve_rows(records: Sequence[Record], board: Board, position: int) -> list[dict[str, Any]]:
    points = {record.fingerprint: point for record in records if (point := checkpoint(record))}
    runs = {point.run: point.name for point in points.values()}
    ordered = sorted(runs)
    rows = []
    for record in sorted(records, key=lambda r: (r.target_task, r.attack.name, r.provenance.started)):
        point = points.get(record.fingerprint) if board.benchmark(record) == position else None
        wanted = is_clean(record) or (at(board.level, record.attack) and record.target_task in ("", record.task))
        if point and wanted and math.isfinite(record.headline.value):
            # Runs of one method from one teacher are numbered.
            namesakes = [run for run in ordered if runs[run] == point.name]
            number = f" ({namesakes.index(point.run) + 1})" if len(namesakes) > 1 else ""
            rows.append(_curve_row(record, point.epoch, f", {point.name}{number}" if len(runs) > 1 else ""))
    return rows


def _curve_figure(rows: list[dict[str, Any]], board: Board, position: int, lines: Sequence[str]) -> Figure:
    benchmark, epochs = board.benchmarks[position], _epochs(rows)
    rows.sort(key=lambda row: (lines.index(str(row["line"])), int(row["epoch"])))
    here = dict.fromkeys(str(row["line"]) for row in rows)
    return Figure(
        kind="curve",
        title=f"{benchmark.task.capitalize()} on {benchmark.dataset}",
        words=f"Line chart: {benchmark.metric} over epochs {epochs[0]} to {epochs[-1]} of hardening, "
        f"for {', '.join(here)}.",
        draw=partial(
            _draw_curve,
            rows,
            y=axis_title(benchmark),
            top=axis_top(benchmark, [float(r["high"]) for r in rows]),
            names=lines,
        ),
        headings=["attack", "epoch", f"{benchmark.metric}{unit_text(benchmark)}"],
        rows=[[str(r["line"]), str(r["epoch"]), str(r["table"])] for r in rows],
    )


def _curve_row(record: Record, epoch: int, run: str) -> dict[str, Any]:
    interval = record.headline
    low, high = ends(interval)
    line = f"{record.attack.label}{run}"
    return {
        **{"line": line, "epoch": epoch, "value": interval.value, "low": low, "high": high},
        **{"table": interval_text(interval), "words": f"{line}, epoch {epoch}: {interval_text(interval)}"},
    }


def _draw_curve(*content: Any, **options: Any) -> "alt.TopLevelMixin":
    from robustprobe.report.charts.vega import curve_chart

    return curve_chart(*content, **options)
