"""What each chart of the page shows: its rows of numbers, the chart, the words instead of it, and a table of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from robustprobe.report._board import Bench, Board, at
from robustprobe.report._kept import kept
from robustprobe.report._matrix import ends_text, interval_text, number_text, percent_text
from robustprobe.report._series import MOST, Checkpoint, Series, checkpoint, parent, series
from robustprobe.spec import format_eps
from robustprobe.stats import Estimate
from robustprobe.store import Interval, Record

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

    encoder: Series
    record: Record


def drawn_series(board: Board) -> list[Series]:
    """The encoders that charts tell apart, those that kept most first."""
    return series([row.encoder for row in board.rows[:MOST]])


def eps_figures(records: Sequence[Record], board: Board, chance: Mapping[str, float]) -> list[Figure]:
    """Score against eps, a figure for each bench under its own attacks; `chance`: what guessing scores, by dataset."""
    return [
        figure
        for place, bench in enumerate(board.benches)
        if (figure := _eps_figure(_cells(records, board, place), bench, board, "", chance))
    ]


def blind_figures(records: Sequence[Record], board: Board, chance: Mapping[str, float]) -> list[Figure]:
    """The same for each attack that saw no head."""
    return [
        figure
        for place, bench in enumerate(board.benches)
        for name in dict.fromkeys(
            c.attack.label for c in bench.columns if not c.made_for and c.attack.name not in ("clean", NOISE)
        )
        if (figure := _eps_figure(_cells(records, board, place), bench, board, name, chance))
    ]


def _cells(records: Sequence[Record], board: Board, place: int) -> list[_Cell]:
    known = {s.name: s for s in drawn_series(board)}
    found = [(board.encoder(r), r) for r in records if board.bench(r) == place]
    cells = [_Cell(known[name], r) for name, r in found if name in known and math.isfinite(r.headline.value)]
    return sorted(cells, key=lambda cell: (cell.encoder.colour, cell.record.attack.eps, cell.record.provenance.started))


def _eps_figure(
    cells: Sequence[_Cell], bench: Bench, board: Board, attack: str, chance: Mapping[str, float]
) -> Figure | None:
    if board.level is None:
        return None
    norm = board.level.norm
    own = [c for c in cells if _is_clean(c.record) or (c.record.attack.norm == norm and _under(c.record, attack))]
    own = _strongest(own)
    if not any(c.record.attack.eps > 0 for c in own):
        return None
    shown = list({c.encoder.name: c.encoder for c in own}.values())
    noise = [c for c in cells if c.record.attack.name == NOISE and c.record.attack.norm == norm]
    noise = _strongest([*(c for c in own if _is_clean(c.record)), *noise]) if len(shown) <= FEW else []
    rows = [_eps_row(c, OWN) for c in own] + [_eps_row(c, NOISE) for c in noise]
    guess = chance.get(own[0].record.dataset) if bench.task == "classification" else None
    under = attack or "its own strongest attack"
    draw = partial(
        _draw_eps,
        rows,
        shown,
        x=f"eps ({'Linf, of 255 grey levels' if norm == 'linf' else norm})",
        y=axis_title(bench),
        top=_top(bench, [float(r["high"]) for r in rows]),
        chance=guess,
    )
    return Figure(
        kind="eps",
        title=f"{bench.task.capitalize()} on {bench.dataset}{f', under {attack}' if attack else ''}",
        words=_eps_words(bench, own, under),
        draw=draw,
        headings=["encoder", "attack", "eps", f"{bench.metric}{_unit(bench)}"],
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
    from robustprobe.report._charts import eps_chart

    return eps_chart(*content, **options)


def _is_clean(record: Record) -> bool:
    return record.attack.name == "clean"


def _under(record: Record, attack: str) -> bool:
    return record.attack.label == attack if attack else record.made_for == record.task


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
    low, high = _ends(interval)
    return {
        **{"encoder": cell.encoder.short, "eps": round(eps, 6), "value": interval.value, "low": low, "high": high},
        **{"kind": kind, "words": f"{cell.encoder.name}, {what}: {interval_text(interval)}"},
    }


def _ends(interval: Interval) -> tuple[float, float]:
    """Ends of an interval; the value where they are no numbers."""
    low, high = (x if math.isfinite(x) else interval.value for x in (interval.ci_low, interval.ci_high))
    return low, high


def _eps_words(bench: Bench, cells: Sequence[_Cell], under: str) -> str:
    parts = []
    for encoder in dict.fromkeys(c.encoder.name for c in cells):
        own = [c.record for c in cells if c.encoder.name == encoder]
        first, last = own[0], own[-1]
        parts.append(
            f"{encoder} {number_text(first.headline.value)} at eps {format_eps(first.attack.eps)}"
            f" to {number_text(last.headline.value)} at {format_eps(last.attack.eps)}"
        )
    return (
        f"Line chart: {bench.metric} of {bench.task} on {bench.dataset} against eps under {under}. {'; '.join(parts)}."
    )


def axis_title(bench: Bench) -> str:
    """`RMSE in m (lower is better ↓)`."""
    direction = "higher is better ↑" if bench.higher_is_better else "lower is better ↓"
    return f"{bench.metric}{_unit(bench)} ({direction})"


def _unit(bench: Bench) -> str:
    return "" if bench.unit == "share" else f" in {bench.unit}"


def _top(bench: Bench, ends: Sequence[float]) -> float:
    """Where a score axis ends: a full tenth above all intervals; never above 1 for a share."""
    highest = max(ends, default=1.0) or 1.0
    step = 0.1 if highest <= 2 else 0.5
    top = math.ceil(highest * HEADROOM / step) * step
    return min(1.0, top) if bench.unit == "share" and highest <= 1 else top


def heat_figures(board: Board) -> list[Figure]:
    """Task by attack: what each attack at the largest eps left of the clean score, a figure for each bench."""
    return [figure for place in range(len(board.benches)) if (figure := _heat_figure(board, place))]


def _heat_figure(board: Board, place: int) -> Figure | None:
    bench = board.benches[place]
    labels = [c.label for c in bench.columns if c.attack.name != "clean"]
    known = {s.name: s for s in drawn_series(board)}
    lines = [row for row in board.rows if row.encoder in known]
    rows: list[dict[str, Any]] = []
    for row in lines:
        clean = next((r for r in row.cells[place] if r and _is_clean(r)), None)
        for column, record in zip(bench.columns, row.cells[place], strict=True):
            share = kept(clean.headline, record.headline, bench.higher_is_better) if clean and record else None
            if share and record and not _is_clean(record):
                rows.append(_tile(known[row.encoder], column.label, share))
    if not rows:
        return None
    encoders = [s.short for s in known.values() if any(r["encoder"] == s.short for r in rows)]
    labels = [label for label in labels if any(r["attack"] == label for r in rows)]
    title = f"{bench.task.capitalize()} on {bench.dataset}"
    weakest = min(rows, key=lambda r: float(r["shade"]))
    return Figure(
        kind="heatmap",
        title=title,
        words=f"Heat map: share of the clean {bench.metric} that {len(labels)} attacks left of {len(encoders)} "
        f"encoders at {board.level_text}. Least: {weakest['words']}.",
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


def _tile(encoder: Series, label: str, share: Estimate) -> dict[str, Any]:
    return {
        **{"encoder": encoder.short, "attack": label, "shade": share.value, "label": percent_text(share.value)},
        **{"table": share_text(share), "words": f"{encoder.name}, {label}: {share_text(share)}"},
    }


def share_text(share: Estimate) -> str:
    """`12 % [10, 14]`, or `12 % [10, ∞]`."""
    ends = (f"{100 * x:.0f}" if math.isfinite(x) else "∞" for x in (share.ci_low, share.ci_high))
    return f"{percent_text(share.value)} [{', '.join(ends)}]"


def _draw_heat(rows: Any, encoders: Any, labels: Any, title: str, legend: bool = False) -> "alt.TopLevelMixin":
    from robustprobe.report._charts import heat_chart

    return heat_chart(rows, encoders, labels, title if legend else "")


def trade_figures(board: Board) -> list[Figure]:
    """Clean against attacked scores, a figure for each bench."""
    return [figure for place in range(len(board.benches)) if (figure := _trade_figure(board, place))]


def _trade_figure(board: Board, place: int) -> Figure | None:
    bench = board.benches[place]
    shown = [
        (s, k) for s, row in zip(drawn_series(board), board.rows, strict=False) if (k := row.benches[place]) is not None
    ]
    if not shown:
        return None
    rows = [_trade_row(s, k.clean.headline, k.attacked.headline, k.attack) for s, k in shown]
    front = pareto([(float(r["clean"]), float(r["attacked"])) for r in rows], bench.higher_is_better)
    best = [rows[k] for k in front]
    names = [s.name for s, _ in shown]
    arrows = [_arrow(rows[names.index(p)], rows[k]) for k, n in enumerate(names) if (p := parent(n, names))]
    ends = (
        _top(bench, [float(r["clean_high"]) for r in rows]),
        _top(bench, [float(r["attacked_high"]) for r in rows]),
    )
    better = "↑" if bench.higher_is_better else "↓"
    under = f" under its own attack at {board.level_text}"
    hardened = [f"from {parent(n, names)} to {n}" for n in names if parent(n, names)]
    draw = partial(
        _draw_trade,
        rows,
        arrows,
        [{"clean": r["clean"], "attacked": r["attacked"], "place": k} for k, r in enumerate(best)],
        [s for s, _ in shown],
        axes=tuple(f"{what} {bench.metric}{_unit(bench)} ({better} better)" for what in ("clean", "attacked")),
        ends=ends,
        higher=bench.higher_is_better,
    )
    return Figure(
        kind="pareto",
        title=f"{bench.task.capitalize()} on {bench.dataset}",
        words=f"Scatter chart: clean {bench.metric} against {bench.metric}{under}. "
        f"Nothing is better in both than {', '.join(str(r['name']) for r in best)}."
        + (f" Arrows {'; '.join(hardened)}." if hardened else ""),
        draw=draw,
        headings=["encoder", f"clean {bench.metric}{_unit(bench)}", f"attacked {bench.metric}{_unit(bench)}", "attack"],
        rows=[
            [s.name, interval_text(k.clean.headline), interval_text(k.attacked.headline), k.attack] for s, k in shown
        ],
    )


def _trade_row(encoder: Series, clean: Interval, attacked: Interval, attack: str) -> dict[str, Any]:
    (clean_low, clean_high), (low, high) = _ends(clean), _ends(attacked)
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
    """Places of the points that no other one is at least as good as in both and better in one, by the first value."""
    sign = 1 if higher_is_better else -1
    signed = [(sign * a, sign * b) for a, b in points]
    front = [
        k
        for k, own in enumerate(signed)
        if not any(other[0] >= own[0] and other[1] >= own[1] and other != own for other in signed)
    ]
    return sorted(front, key=lambda k: points[k])


def _draw_trade(*content: Any, **options: Any) -> "alt.TopLevelMixin":
    from robustprobe.report._charts import trade_chart

    return trade_chart(*content, **options)


def curve_figures(records: Sequence[Record], board: Board) -> list[Figure]:
    """Scores over epochs of hardening, a figure for each bench; encoders are told by names such as `x-epoch-3`."""
    found = [figure for place in range(len(board.benches)) if (figure := _curve_figure(records, board, place))]
    return found


def _curve_figure(records: Sequence[Record], board: Board, place: int) -> Figure | None:
    bench = board.benches[place]
    kept_on_the_way = {row.encoder: point for row in board.rows if (point := checkpoint(row.encoder))}
    trunks = sorted({point.trunk for point in kept_on_the_way.values()})
    rows = []
    for record in sorted(records, key=lambda r: (r.made_for, r.attack.name, r.provenance.started)):
        point = kept_on_the_way.get(board.encoder(record) or "") if board.bench(record) == place else None
        wanted = _is_clean(record) or (at(board.level, record.attack) and record.made_for in ("", record.task))
        if point and wanted and math.isfinite(record.headline.value):
            rows.append(_curve_row(record, point, len(trunks) > 1))
    if len({row["epoch"] for row in rows}) < 2:
        return None
    rows.sort(key=lambda row: int(row["epoch"]))
    lines = sorted(dict.fromkeys(str(r["line"]) for r in rows), key=lambda line: ("clean" not in line, line))
    rows.sort(key=lambda row: lines.index(str(row["line"])))
    epochs = sorted({int(r["epoch"]) for r in rows})
    title = f"{bench.task.capitalize()} on {bench.dataset}"
    return Figure(
        kind="curve",
        title=title,
        words=f"Line chart: {bench.metric} over epochs {epochs[0]} to {epochs[-1]} of hardening, "
        f"for {', '.join(lines)}.",
        draw=partial(_draw_curve, rows, y=axis_title(bench), top=_top(bench, [float(r["high"]) for r in rows])),
        headings=["attack", "epoch", f"{bench.metric}{_unit(bench)}"],
        rows=[[str(r["line"]), str(r["epoch"]), str(r["table"])] for r in rows],
    )


def _curve_row(record: Record, point: Checkpoint, name_trunk: bool) -> dict[str, Any]:
    interval = record.headline
    low, high = _ends(interval)
    line = f"{record.attack.label}{f', {point.trunk}' if name_trunk else ''}"
    return {
        **{"line": line, "epoch": point.epoch, "value": interval.value, "low": low, "high": high},
        **{"table": interval_text(interval), "words": f"{line}, epoch {point.epoch}: {interval_text(interval)}"},
    }


def _draw_curve(*content: Any, **options: Any) -> "alt.TopLevelMixin":
    from robustprobe.report._charts import curve_chart

    return curve_chart(*content, **options)
