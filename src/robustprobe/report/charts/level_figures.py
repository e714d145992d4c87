"""Figures of one eps: the robust share under each attack, and clean against attacked scores."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from robustprobe.metrics.intervals import Estimate
from robustprobe.report.charts.figures import Figure, axis_top, drawn_series, ends, unit_text
from robustprobe.report.charts.series import EncoderStyle
from robustprobe.report.tables.board import Board, BoardRow
from robustprobe.report.tables.matrix import ends_text, interval_text, number_text, percent_text
from robustprobe.report.tables.shares import share_text
from robustprobe.results.records import Interval, Record

if TYPE_CHECKING:
    import altair as alt


def heat_figures(board: Board) -> list[Figure]:
    """The share of the best clean score reached under each attack at the board's eps, a figure for each benchmark."""
    return [figure for position in range(len(board.benchmarks)) if (figure := _heat_figure(board, position))]


def _heat_figure(board: Board, position: int) -> Figure | None:
    benchmark = board.benchmarks[position]
    labels = [c.label for c in benchmark.columns if not c.key.is_clean]
    known = {s.name: s for s in drawn_series(board)}
    lines = [row for row in board.rows if row.encoder in known]
    rows: list[dict[str, Any]] = []
    for row in lines:
        for column, record in zip(benchmark.columns, row.cells[position], strict=True):
            share = _share(board, position, record)
            if share and not _is_guess(board, row, position):
                rows.append(_tile(known[row.encoder], column.label, share))
    if not rows:
        return None
    encoders = [s.short for s in known.values() if any(r["encoder"] == s.short for r in rows)]
    labels = [label for label in labels if any(r["attack"] == label for r in rows)]
    title = f"{benchmark.task.capitalize()} on {benchmark.dataset}, {board.level_text}"
    weakest = min(rows, key=lambda r: float(r["shade"]))
    return Figure(
        kind="heatmap",
        title=title,
        words=f"Heat map: share of the best clean {benchmark.metric} that {len(encoders)} encoders reach under "
        f"{len(labels)} attacks at {board.level_text}. Smallest: {weakest['words']}.",
        draw=partial(_draw_heat, rows, encoders, labels, title),
        headings=["encoder", *labels],
        rows=[
            [
                s.name,
                *(next((r["table"] for r in rows if (r["encoder"], r["attack"]) == (s.short, a)), "—") for a in labels),
            ]
            for s in known.values()
            if s.short in encoders
        ],
    )


def _share(board: Board, position: int, record: Record | None) -> Estimate | None:
    """The share of the best clean score that a record reaches; None for clean ones."""
    best = board.best[position]
    if best is None or record is None or record.is_clean:
        return None
    return board.benchmarks[position].kept(best, record.headline)


def _is_guess(board: Board, row: BoardRow, position: int) -> bool:
    """Whether the clean score of an encoder is missing or not above chance."""
    clean = next((r for r in row.cells[position] if r and r.is_clean), None)
    return clean is None or board.benchmarks[position].is_guess(clean)


def _tile(encoder: EncoderStyle, label: str, share: Estimate) -> dict[str, Any]:
    return {
        **{"encoder": encoder.short, "attack": label, "shade": share.value, "label": percent_text(share.value)},
        **{"table": share_text(share), "words": f"{encoder.name}, {label}: {share_text(share)}"},
    }


def _draw_heat(rows: Any, encoders: Any, labels: Any, title: str, legend: bool = False) -> "alt.TopLevelMixin":
    from robustprobe.report.charts.vega import heat_chart

    return heat_chart(rows, encoders, labels, title if legend else "")


def trade_figures(board: Board) -> list[Figure]:
    """Clean against attacked scores, a figure for each benchmark."""
    return [figure for position in range(len(board.benchmarks)) if (figure := _trade_figure(board, position))]


def _trade_figure(board: Board, position: int) -> Figure | None:
    benchmark = board.benchmarks[position]
    shown = [
        (s, k)
        for s, row in zip(drawn_series(board), board.rows, strict=False)
        if (k := row.benchmarks[position]) is not None
    ]
    if not shown:
        return None
    rows = [_trade_row(s, k.clean.headline, k.attacked.headline, k.attack) for s, k in shown]
    front = pareto([(float(r["clean"]), float(r["attacked"])) for r in rows], benchmark.higher_is_better)
    best = [rows[k] for k in front]
    names = [s.name for s, _ in shown]
    parents = [_teacher(k.clean, names) for _, k in shown]
    arrows = [_arrow(rows[names.index(p)], rows[k]) for k, p in enumerate(parents) if p]
    ends = (
        axis_top(benchmark, [float(r["clean_high"]) for r in rows]),
        axis_top(benchmark, [float(r["attacked_high"]) for r in rows]),
    )
    better = "↑" if benchmark.higher_is_better else "↓"
    under = f" under the strongest task-specific attack at {board.level_text}"
    hardened = [f"from {p} to {n}" for n, p in zip(names, parents, strict=True) if p]
    draw = partial(
        _draw_trade,
        rows,
        arrows,
        [{"clean": r["clean"], "attacked": r["attacked"], "order": k} for k, r in enumerate(best)],
        [s for s, _ in shown],
        axes=tuple(
            f"{what} {benchmark.metric}{unit_text(benchmark)} ({better} better)" for what in ("clean", "attacked")
        ),
        ends=ends,
        higher=benchmark.higher_is_better,
    )
    return Figure(
        kind="pareto",
        title=f"{benchmark.task.capitalize()} on {benchmark.dataset}, {board.level_text}",
        words=f"Scatter chart: clean {benchmark.metric} against {benchmark.metric}{under}. "
        f"Nothing is better in both than {', '.join(str(r['name']) for r in best)}."
        + (f" Arrows {'; '.join(hardened)}." if hardened else ""),
        draw=draw,
        headings=[
            "encoder",
            f"clean {benchmark.metric}{unit_text(benchmark)}",
            f"attacked {benchmark.metric}{unit_text(benchmark)}",
            "attack",
        ],
        rows=[
            [s.name, interval_text(k.clean.headline), interval_text(k.attacked.headline), k.attack] for s, k in shown
        ],
    )


def _teacher(record: Record, names: Sequence[str]) -> str | None:
    """The encoder that the record's was hardened from, where its card names one of `names`."""
    teacher = record.encoder_teacher
    return teacher if teacher in names and teacher != record.encoder else None


def _trade_row(encoder: EncoderStyle, clean: Interval, attacked: Interval, attack: str) -> dict[str, Any]:
    (clean_low, clean_high), (low, high) = ends(clean), ends(attacked)
    return {
        **{"encoder": encoder.short, "name": encoder.name, "clean": clean.value, "attacked": attacked.value},
        **{"clean_low": clean_low, "clean_high": clean_high, "attacked_low": low, "attacked_high": high},
        "words": f"{encoder.name}: clean {interval_text(clean)}, {attack} {number_text(attacked.value)} "
        f"{ends_text(attacked)}",
    }


def _arrow(start: Mapping[str, Any], end: Mapping[str, Any]) -> dict[str, float]:
    x, y, x2, y2 = (float(start["clean"]), float(start["attacked"]), float(end["clean"]), float(end["attacked"]))
    tip = 0.86
    return {"x": x, "y": y, "x2": x2, "y2": y2, "tip_x": x + tip * (x2 - x), "tip_y": y + tip * (y2 - y)}


def pareto(points: Sequence[tuple[float, float]], higher_is_better: bool) -> list[int]:
    """Indices of the Pareto-optimal points, by their first value: no other is as good in both and better in one."""
    sign = 1 if higher_is_better else -1
    signed = [(sign * a, sign * b) for a, b in points]
    front = [
        k
        for k, own in enumerate(signed)
        if not any(other[0] >= own[0] and other[1] >= own[1] and other != own for other in signed)
    ]
    return sorted(front, key=lambda k: points[k])


def _draw_trade(*content: Any, **options: Any) -> "alt.TopLevelMixin":
    from robustprobe.report.charts.vega import trade_chart

    return trade_chart(*content, **options)
