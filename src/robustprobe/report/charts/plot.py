"""Charts as files for papers and slides: SVG, PNG or PDF, on white, with a legend."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustprobe.core.errors import UserError, unknown_name
from robustprobe.core.files import write_whole
from robustprobe.core.pictures import amplified, class_colours, difference, overlay, png_uri, scalar_uri
from robustprobe.report.charts.curves import curve_figures
from robustprobe.report.charts.figures import Figure, eps_figures
from robustprobe.report.charts.level_figures import heat_figures, trade_figures
from robustprobe.report.charts.profile import profile_figures
from robustprobe.report.page.examples import (
    DatasetExamples,
    ExampleImage,
    ImageLimit,
    SeenImage,
    choice_text,
    galleries,
)
from robustprobe.report.page.viewer import displays, scalar_scale
from robustprobe.report.tables.board import TaskOnDatasetKey, board
from robustprobe.report.tables.chance import chances
from robustprobe.results.records import Record
from robustprobe.results.union import Place, as_stores, finished, union_groups

if TYPE_CHECKING:
    import altair as alt
    from numpy.typing import NDArray

KINDS = ("profile", "eps", "pareto", "heatmap", "curve", "examples")
ENDINGS = (".svg", ".png", ".pdf")
SIDE = 84
PIXELS_PER_POINT = 3.0
ATTACKS = 6
LACKING = {
    "profile": "no task was measured both on clean images, above chance, and under any perturbation",
    "eps": "no attack was made for a task",
    "pareto": "no task was measured both on clean images and under a task-specific attack",
    "heatmap": "no task was measured under an attack and with a clean score above chance",
    "curve": "it needs two or more checkpoints of a hardening run; `robustprobe curve` measures all that a run kept",
    "examples": "no example images were stored; a suite stores some if its key `examples` is above 0",
}


def write_plot(folders: Sequence[Place], kind: str, output: Path, samples: int = 1) -> Path:
    """Draw one kind of chart of the results of some folders.

    Args:
        folders: what `robustprobe run --out` wrote.
        kind: profile, eps, pareto, heatmap, curve or examples.
        output: a file that ends in .svg, .png or .pdf.
        samples: images of each dataset that `examples` shows: one drawn at random and one chosen by damage in turn.

    Returns:
        `output`.

    Raises:
        UserError: unknown kind or ending, nothing to draw, or a file that cannot be written.
    """
    check_ending(output)
    save_plot(output, draw(folders, kind, samples))
    return output


def draw(folders: Sequence[Place], kind: str, samples: int = 1) -> "alt.TopLevelMixin":
    """The chart that `write_plot` writes. Raises UserError: unknown kind, or nothing to draw."""
    if kind not in KINDS:
        raise unknown_name("kind of plot", kind, KINDS)
    if samples < 1:
        raise UserError(f"{samples} samples leave no image; give 1 or more.")
    cells, groups = finished(folders, "plot"), union_groups(as_stores(folders))
    records = [found.record for found in cells]
    if kind == "examples":
        chart = _examples(galleries(groups, records, ImageLimit(samples, math.inf)))
    else:
        chart = folder_chart(kind, records, chances(cells))
    if chart is None:
        raise UserError(f"there is nothing to draw as {kind}: {LACKING[kind]}.")
    return chart


def check_ending(output: Path) -> None:
    """Raises UserError for a file whose ending names no format."""
    if output.suffix.lower() not in ENDINGS:
        raise UserError(f"{output} ends in '{output.suffix}'; give a file that ends in {', '.join(ENDINGS)}.")


def save_plot(output: Path, chart: "alt.TopLevelMixin") -> None:
    """Write a chart. Raises UserError for an unknown ending, or a file that cannot be written."""
    check_ending(output)
    content = rendered(chart, output.suffix.lower())
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(output, content)
    except OSError as error:
        raise UserError(f"the plot cannot be written to {output}: {error}. Give another file with -o.") from error


def rendered(chart: "alt.TopLevelMixin", ending: str) -> bytes:
    """A chart as the bytes of a file that ends in .svg, .png or .pdf."""
    import vl_convert

    from robustprobe.report.charts.vega import themed

    spec = json.dumps(themed(chart, background="white"))
    if ending == ".svg":
        return str(vl_convert.vegalite_to_svg(spec)).encode()
    if ending == ".pdf":
        return bytes(vl_convert.vegalite_to_pdf(spec))
    return bytes(vl_convert.vegalite_to_png(spec, scale=PIXELS_PER_POINT))


def folder_chart(
    kind: str, records: list[Record], chance: Mapping[TaskOnDatasetKey, float]
) -> "alt.TopLevelMixin | None":
    """A chart of all kinds but `examples`; None where there is nothing to draw."""
    found = board(records, chance)
    drawers: dict[str, Callable[[], list[Figure]]] = {
        "profile": lambda: profile_figures(records, found),
        "eps": lambda: eps_figures(records, found),
        "pareto": lambda: trade_figures(found),
        "heatmap": lambda: heat_figures(found),
        "curve": lambda: curve_figures(records, found),
    }
    return _beside(drawers[kind]())


def _beside(figures: Sequence[Figure]) -> "alt.TopLevelMixin | None":
    import altair as alt

    if not figures:
        return None
    # What several charts have in common has one legend below them.
    charts: list[Any] = [figure.draw(legend=True).properties(title=figure.title) for figure in figures]
    return charts[0] if len(charts) == 1 else alt.hconcat(*charts, spacing=28)


def _examples(shown: Sequence[DatasetExamples]) -> "alt.TopLevelMixin | None":
    import altair as alt

    charts: list[Any] = [example_chart(gallery, subject) for gallery in shown for subject in gallery.subjects]
    if not charts:
        return None
    return charts[0] if len(charts) == 1 else alt.vconcat(*charts, spacing=28)


def example_chart(gallery: DatasetExamples, subject: ExampleImage) -> Any:
    """An image: columns are the attacks at their largest eps, rows the image and the predictions of each encoder."""
    from robustprobe.report.charts.vega import picture_chart

    rows: list[dict[str, Any]] = []
    for series in subject.series:
        chosen = _chosen(series.seen)
        clean = next((s for s in chosen if s.group.attack_key.is_clean), None)
        for seen in chosen:
            rows += _pictures(subject, series.encoder if len(subject.series) > 1 else "", seen, clean)
    columns = list(dict.fromkeys(row["column"] for row in rows))
    lines = sorted({(row["encoder"], row["order"], row["line"]) for row in rows})
    chart = picture_chart(rows, columns, [line for _, _, line in lines], SIDE)
    return chart.properties(title=[f"{gallery.dataset} {subject.id}", *map(choice_text, subject.chosen)])


def _chosen(seen: Sequence[SeenImage]) -> list[SeenImage]:
    """Clean, then at most six attacks, each at its largest eps."""
    largest: dict[tuple[str, str], SeenImage] = {}
    for one in seen:
        key = (one.group.attack.label, one.group.target_task)
        if key not in largest or one.group.attack.eps > largest[key].group.attack.eps:
            largest[key] = one
    return list(largest.values())[: 1 + ATTACKS]


def _pictures(subject: ExampleImage, encoder: str, seen: SeenImage, clean: SeenImage | None) -> list[dict[str, Any]]:
    shown = displays(subject)
    named = [t for t, d in shown.items() if d.kind == "classes"]
    guess = next((seen.example.predictions[t][0] for t in named if seen.example.predictions.get(t)), None)
    found = [("image", png_uri(_large(seen.image)), f"{guess[0]} {guess[1]:.2f}" if guess else "")]
    if clean is not None and clean is not seen and clean.image.shape == seen.image.shape:
        found.append(("change × 10", png_uri(_large(amplified(difference(clean.image, seen.image)))), ""))
    found += [(name, uri, "") for task in seen.maps for name, uri in [_map(subject, seen, task)] if uri]
    ahead = f"{encoder}, " if encoder else ""
    order = ["image", "change × 10"]
    return [
        {
            "column": seen.label,
            "encoder": encoder,
            "order": order.index(what) if what in order else len(order) + k,
            "line": f"{ahead}{what}",
            "uri": uri,
            "note": note,
        }
        for k, (what, uri, note) in enumerate(found)
    ]


def _map(subject: ExampleImage, seen: SeenImage, task: str) -> tuple[str, str]:
    """What a map is called beside its pictures, and the picture; empty where it cannot be drawn."""
    display, values = displays(subject)[task], seen.maps[task]
    if display.kind == "class map":
        if values.shape != seen.image.shape[:2]:
            return task, ""
        return task, png_uri(_large(overlay(seen.image, values, class_colours(len(seen.group.classes.get(task, []))))))
    if display.kind == "colours":
        return task, png_uri(_large(values))
    scale = scalar_scale(subject, task, display.unit)
    if scale is None:
        return task, ""
    return f"{task}, {scale.low:.1f} to {scale.high:.1f} {scale.unit}", scalar_uri(_large(values), scale)


def _large(picture: "NDArray[Any]") -> "NDArray[Any]":
    """Each pixel as a square of pixels: the renderer smooths pictures that it enlarges."""
    times = max(1, round(PIXELS_PER_POINT * SIDE / max(picture.shape[:2])))
    return picture.repeat(times, axis=0).repeat(times, axis=1)
