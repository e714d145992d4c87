"""Charts in Vega-Lite through Altair: rows of numbers in, a chart out; independent of records."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from robustprobe.report.charts.series import COLOURS, DASHES, EncoderStyle, shape_of

Rows = Sequence[Mapping[str, Any]]
INK, SOFT, RULE = "#1d2127", "#5a626d", "#dcd8d0"
WIDTH, HEIGHT = 270, 190
CELL = 46
LINE_HEIGHT = 24
PANEL, PANELS, DOT_HEIGHT = 200, 3, 11
"""Of a profile: width of a panel, panels beside each other, height of a dot."""
BAND, FAINT = 0.16, 0.06
FEW = 4
"""With more encoders than these, bands overlap and are drawn fainter."""
# Text on viridis: white as long as that has the greater contrast.
LIGHT_FROM = 0.45


def themed(chart: alt.TopLevelMixin, background: str | None = None) -> dict[str, Any]:
    """A chart as Vega-Lite, in the page's colours."""
    # A check of each chart against the schema takes as long as to draw it; tests do it.
    found: dict[str, Any] = chart.to_dict(validate=False)
    axis = {
        **{"labelColor": SOFT, "titleColor": INK, "gridColor": RULE, "domainColor": SOFT, "tickColor": SOFT},
        **{"labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal", "titlePadding": 6},
    }
    legend = {"labelColor": INK, "titleColor": INK, "labelLimit": 260, "labelFontSize": 11, "symbolOpacity": 1}
    title = {"color": INK, "fontSize": 13, "anchor": "start", "fontWeight": 600}
    found["config"] = {
        **{"background": background, "font": "system-ui, DejaVu Sans, sans-serif", "axis": axis, "legend": legend},
        **{"title": title, "view": {"stroke": None}},
    }
    return found


def _data(rows: Rows) -> alt.InlineData:
    return alt.InlineData(values=[dict(row) for row in rows])


def _paint(series: Sequence[EncoderStyle], legend: bool) -> dict[str, Any]:
    """Colour, marker and dash of each encoder; one legend for the three of them."""
    names = [s.short for s in series]
    shown = alt.Legend(title=None, orient="bottom", columns=1) if legend else None
    return {
        "color": alt.Color("encoder:N", legend=shown).scale(domain=names, range=[s.paint for s in series]),
        "shape": alt.Shape("encoder:N", legend=shown).scale(domain=names, range=[s.shape for s in series]),
        "strokeDash": alt.StrokeDash("encoder:N", legend=shown).scale(
            domain=names, range=[list(s.dash) for s in series]
        ),
    }


def eps_chart(
    rows: Rows,
    series: Sequence[EncoderStyle],
    *,
    x: str,
    y: str,
    top: float,
    chance: float | None,
    legend: bool = False,
) -> alt.LayerChart | alt.FacetChart:
    """Score against eps: a line with its band per encoder, thin dotted lines for the control, and the chance level.

    Args:
        rows: `encoder`, `eps`, `value`, `low`, `high`, `kind` (specific or control), `words`.
        series: the encoders, in order.
        x: title of the eps axis.
        y: title of the score axis.
        top: where the score axis ends.
        chance: the level of chance, or None.
        legend: whether the chart names its encoders itself.
    """
    own = [r for r in rows if r["kind"] == "specific"]
    control = [r for r in rows if r["kind"] == "control"]
    paint = _paint(series, legend)
    sizes = sorted({r["eps"] for r in rows})
    across = alt.X("eps:Q", title=x).axis(values=sizes, format=".3~g", grid=False).scale(domain=[0, max(sizes)])
    up = alt.Y("value:Q", title=y).scale(domain=[0, top], clamp=True).axis(tickCount=5, format=".3~g")
    base = alt.Chart(_data(own))
    layers: list[alt.Chart] = [
        base.mark_area(opacity=BAND if len(series) <= FEW else FAINT).encode(
            x=across,
            y=alt.Y("low:Q", title=y).scale(domain=[0, top], clamp=True),
            y2=alt.Y2("high:Q"),
            color=paint["color"],
        ),
        base.mark_line(strokeWidth=2).encode(x=across, y=up, color=paint["color"], strokeDash=paint["strokeDash"]),
        base.mark_point(filled=True, size=46, opacity=1).encode(
            x=across, y=up, color=paint["color"], shape=paint["shape"], description=alt.Description("words:N")
        ),
    ]
    if control:
        layers.append(
            alt.Chart(_data(control))
            .mark_line(strokeWidth=1.4, strokeDash=[1, 3])
            .encode(x=across, y=up, color=paint["color"])
        )
    if chance is not None:
        rule = alt.Chart(_data([{"chance": chance}]))
        layers.append(rule.mark_rule(color=SOFT, strokeDash=[5, 4]).encode(y=alt.Y("chance:Q")))
        layers.append(
            rule.mark_text(text="chance", align="right", dx=-2, dy=-6, color=SOFT, fontSize=10).encode(
                x=alt.value(WIDTH), y=alt.Y("chance:Q")
            )
        )
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)


def heat_chart(
    rows: Rows, encoders: Sequence[str], attacks: Sequence[str], title: str
) -> alt.LayerChart | alt.FacetChart:
    """Shares of the best clean score (`share`, printed as `label`) of encoders under attacks, dark where small."""
    across = alt.X("attack:N", title=None, sort=list(attacks)).axis(labelAngle=-35, orient="top", domain=False)
    down = alt.Y("encoder:N", title=None, sort=list(encoders)).axis(labelLimit=230, domain=False, ticks=False)
    base = alt.Chart(_data(rows)).encode(x=across, y=down)
    tile = base.mark_rect(stroke=RULE, strokeWidth=0.5).encode(
        color=alt.Color("shade:Q", legend=None).scale(scheme="viridis", domain=[0, 1], clamp=True),
        description=alt.Description("words:N"),
    )
    number = base.mark_text(fontSize=11).encode(
        text=alt.Text("label:N"),
        color=alt.when(f"datum.shade < {LIGHT_FROM}").then(alt.value("#ffffff")).otherwise(alt.value("#101010")),
    )
    return alt.layer(tile, number, title=title or alt.Undefined).properties(
        width=CELL * len(attacks), height=LINE_HEIGHT * len(encoders)
    )


def trade_chart(
    rows: Rows,
    arrows: Rows,
    front: Rows,
    series: Sequence[EncoderStyle],
    *,
    axes: tuple[str, str],
    ends: tuple[float, float],
    higher: bool,
    legend: bool = False,
) -> alt.LayerChart | alt.FacetChart:
    """Clean against attacked scores with intervals, the Pareto front, and arrows from encoders to hardened ones.

    Args:
        rows: `encoder`, `clean`, `attacked`, their `_low` and `_high`, `words`.
        arrows: `x`, `y`, `x2`, `y2`.
        front: `clean`, `attacked`, in order.
        series: the encoders, in order.
        axes: titles across and up.
        ends: where the axes end.
        higher: whether scores are better up; otherwise both axes are turned, so that right and up is better anyway.
        legend: whether the chart names its encoders itself.
    """
    paint = _paint(series, legend)
    across = (
        alt.X("clean:Q", title=axes[0]).scale(domain=[0, ends[0]], reverse=not higher).axis(tickCount=5, format=".3~g")
    )
    up = (
        alt.Y("attacked:Q", title=axes[1])
        .scale(domain=[0, ends[1]], reverse=not higher)
        .axis(tickCount=5, format=".3~g")
    )
    base = alt.Chart(_data(rows)).encode(x=across, y=up)
    layers: list[alt.Chart] = [
        alt.Chart(_data(front))
        .mark_line(color=SOFT, strokeDash=[2, 3], strokeWidth=1.2)
        .encode(x=across, y=up, order=alt.Order("order:Q")),
        base.mark_rule(opacity=0.5).encode(x=alt.X("clean_low:Q"), x2=alt.X2("clean_high:Q"), color=paint["color"]),
        base.mark_rule(opacity=0.5).encode(
            y=alt.Y("attacked_low:Q"), y2=alt.Y2("attacked_high:Q"), color=paint["color"]
        ),
        base.mark_point(filled=True, size=90, opacity=1).encode(
            color=paint["color"], shape=paint["shape"], description=alt.Description("words:N")
        ),
    ]
    if arrows:
        turned = [{**a, "turn": _turn(a, ends, higher)} for a in arrows]
        shafts = alt.Chart(_data(turned))
        layers.append(
            shafts.mark_rule(color=INK, strokeWidth=1.2).encode(
                x=alt.X("x:Q", title=axes[0]), y=alt.Y("y:Q", title=axes[1]), x2=alt.X2("x2:Q"), y2=alt.Y2("y2:Q")
            )
        )
        layers.append(
            shafts.mark_point(filled=True, shape="triangle", size=70, color=INK, opacity=1).encode(
                x=alt.X("tip_x:Q", title=axes[0]),
                y=alt.Y("tip_y:Q", title=axes[1]),
                angle=alt.Angle("turn:Q", scale=None),
            )
        )
    return alt.layer(*layers).properties(width=WIDTH, height=WIDTH * 0.8)


def _turn(arrow: Mapping[str, float], ends: tuple[float, float], higher: bool) -> float:
    """Degrees clockwise by which a triangle that points up is turned to point along an arrow."""
    sign = 1 if higher else -1
    right = sign * (arrow["x2"] - arrow["x"]) / ends[0] * WIDTH
    up = sign * (arrow["y2"] - arrow["y"]) / ends[1] * WIDTH * 0.8
    return math.degrees(math.atan2(right, up))


def curve_chart(
    rows: Rows, *, y: str, top: float, names: Sequence[str], legend: bool = False
) -> alt.LayerChart | alt.FacetChart:
    """Scores over epochs of hardening: a line per attack and run; rows: `line`, `epoch`, `value`, `low`, `high`.

    `names` are the lines of all charts that are shown beside each other.
    """
    shown = alt.Legend(title=None, orient="bottom", columns=1) if legend else None
    positions = range(len(names))
    paint = {
        "color": alt.Color("line:N", legend=shown).scale(
            domain=names, range=[COLOURS[k % len(COLOURS)] for k in positions]
        ),
        "shape": alt.Shape("line:N", legend=shown).scale(domain=names, range=[shape_of(k) for k in positions]),
        "strokeDash": alt.StrokeDash("line:N", legend=shown).scale(
            domain=names, range=[list(DASHES[k % len(DASHES)]) for k in positions]
        ),
    }
    epochs = sorted({r["epoch"] for r in rows})
    across = alt.X("epoch:Q", title="epoch of hardening").axis(values=epochs, format="d", grid=False)
    up = alt.Y("value:Q", title=y).scale(domain=[0, top], clamp=True).axis(tickCount=5, format=".3~g")
    base = alt.Chart(_data(rows))
    return alt.layer(
        base.mark_area(opacity=BAND).encode(
            x=across,
            y=alt.Y("low:Q", title=y).scale(domain=[0, top], clamp=True),
            y2=alt.Y2("high:Q"),
            color=paint["color"],
        ),
        base.mark_line(strokeWidth=2).encode(x=across, y=up, color=paint["color"], strokeDash=paint["strokeDash"]),
        base.mark_point(filled=True, size=46, opacity=1).encode(
            x=across, y=up, color=paint["color"], shape=paint["shape"], description=alt.Description("words:N")
        ),
    ).properties(width=WIDTH, height=HEIGHT)


def picture_chart(
    rows: Rows, columns: Sequence[str], lines: Sequence[str], side: int
) -> alt.LayerChart | alt.FacetChart:
    """Pictures (`uri`) in columns and rows, each with a `note` below."""
    across = alt.X("column:N", title=None, sort=list(columns)).axis(
        orient="top", labelAngle=0, domain=False, ticks=False
    )
    down = alt.Y("line:N", title=None, sort=list(lines)).axis(domain=False, ticks=False, labelLimit=330)
    base = alt.Chart(_data(rows)).encode(x=across, y=down)
    image = base.mark_image(width=side, height=side).encode(url=alt.Url("uri:N"))
    note = base.mark_text(dy=side / 2 + 8, fontSize=10, color=SOFT).encode(text=alt.Text("note:N"))
    return alt.layer(image, note).properties(width=(side + 10) * len(columns), height=(side + 24) * len(lines))


def profile_chart(
    panels: Sequence[tuple[str, Rows]],
    perturbations: Sequence[str],
    series: Sequence[EncoderStyle],
    *,
    most: float,
    legend: bool = False,
) -> alt.ConcatChart:
    """Shares (`value`, `low`, `high`) by `perturbation` and `encoder`: a panel for each use, three beside each other.

    Args:
        panels: title and rows of each use.
        perturbations: all perturbations, from top to bottom.
        series: the encoders, in order.
        most: where the axis ends; rows end there too.
        legend: whether the chart names its encoders itself.
    """
    paint = _paint(series, legend)
    names = [s.short for s in series]
    charts = [
        _profile_panel(title, rows, perturbations, names, paint, most, first=place % PANELS == 0)
        for place, (title, rows) in enumerate(panels)
    ]
    return alt.concat(*charts, columns=PANELS, spacing=18)


def _profile_panel(
    title: str,
    rows: Rows,
    perturbations: Sequence[str],
    names: Sequence[str],
    paint: Mapping[str, Any],
    most: float,
    first: bool,
) -> alt.LayerChart | alt.FacetChart:
    across = (
        alt.X("value:Q", title="share of the best clean score")
        .scale(domain=[0, most], clamp=True)
        .axis(values=[0, 0.25, 0.5, 0.75, 1], format=".0%")
    )
    down = alt.Y("perturbation:N", title=None).scale(domain=list(perturbations))
    down = down.axis(labelLimit=260, labelPadding=10, ticks=False, domain=False, labels=first)
    apart = alt.YOffset("encoder:N").scale(domain=list(names))
    base = alt.Chart(_data(rows)).encode(y=down, yOffset=apart)
    whole = alt.Chart(_data([{"whole": 1}])).mark_rule(color=SOFT, strokeDash=[5, 4]).encode(x=alt.X("whole:Q"))
    interval = base.mark_rule(strokeWidth=2, opacity=0.55).encode(
        x=alt.X("low:Q"), x2=alt.X2("high:Q"), color=paint["color"]
    )
    point = base.mark_point(filled=True, size=52, opacity=1).encode(
        x=across, color=paint["color"], shape=paint["shape"], description=alt.Description("words:N")
    )
    height = len(perturbations) * max(LINE_HEIGHT, DOT_HEIGHT * len(names))
    return alt.layer(whole, interval, point, title=title).properties(width=PANEL, height=height)
