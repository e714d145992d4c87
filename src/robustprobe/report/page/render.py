"""The page: one HTML file with the result in words, tables, charts, attacked images and provenance."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from robustprobe.core.errors import UserError
from robustprobe.core.files import write_whole
from robustprobe.report.charts.curves import curve_figures
from robustprobe.report.charts.figures import Figure, drawn_series, eps_figures, label_free_figures
from robustprobe.report.charts.level_figures import heat_figures, trade_figures
from robustprobe.report.charts.profile import profile_figures
from robustprobe.report.charts.series import LEGIBLE, shortened
from robustprobe.report.page.checks import checks
from robustprobe.report.page.cost import cost_table
from robustprobe.report.page.drawn import drawn
from robustprobe.report.page.examples import ImageLimit, galleries
from robustprobe.report.page.headline import headline
from robustprobe.report.page.origin import citations, commands, duration, fact_tables
from robustprobe.report.page.viewer import ViewerDataset, rooms
from robustprobe.report.tables.board import Board, TaskOnDatasetKey, at, boards
from robustprobe.report.tables.chance import chances
from robustprobe.report.tables.corruptions import NOTE, attack_tables, corruption_tables
from robustprobe.report.tables.encoder_transfer import encoder_transfers
from robustprobe.report.tables.matrix import (
    TransferMatrix,
    ends_text,
    failed_text,
    number_text,
    task_tables,
    transfer_matrices,
)
from robustprobe.report.tables.norm_unions import known_unions, union_document
from robustprobe.report.tables.patches import patch_sheets
from robustprobe.report.tables.remarks import remarks
from robustprobe.report.tables.results import render, value_text
from robustprobe.report.tables.shares import share_ends, share_text, share_value
from robustprobe.report.tables.sheet import Document
from robustprobe.results.records import Record
from robustprobe.results.union import Found, FoundGroup, Place, as_stores, finished, union_groups

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).parent
NO_UNION = Document([], [])
IMAGES = 24
MEGABYTES = 12.0
"""Size of all pictures of a page unless a number of images is asked for."""


class Download(NamedTuple):
    """A file inside the page."""

    name: str
    uri: str


class Script(NamedTuple):
    """A script and the digest by which the page's policy lets it run."""

    text: str
    digest: str


def write_page(folders: Path | Sequence[Place], output: Path, wish: ImageLimit | None = None) -> Path:
    """Write the page of one folder or several: one file that loads nothing and also reads without scripts.

    Args:
        folders: what `robustprobe run --out` wrote.
        output: the HTML file.
        wish: how many images the viewer shows; by default 24 of each dataset, fewer where pictures are large.

    Returns:
        `output`.

    Raises:
        UserError: no results, unreadable results, different results for one cell, or a file that cannot be written.
    """
    write_text(output, read_page([folders] if isinstance(folders, Path) else folders, wish), "page")
    return output


def read_page(folders: Sequence[Place], wish: ImageLimit | None = None) -> str:
    """The page of folders as text; raises what `write_page` raises on reading."""
    found, groups = finished(folders, "report"), union_groups(as_stores(folders))
    return render_page([f.record for f in found], groups, wish, chance=chances(found), unions=_unions(found))


def _unions(found: Sequence[Found]) -> Document:
    """The union of norms as `table --union-of-norms` prints it; none where rows cannot be read."""
    try:
        return union_document(known_unions(found))
    except UserError:
        return NO_UNION


def write_text(output: Path, content: str, what: str) -> None:
    """Write a file with its folder. Raises UserError where that cannot be done."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(output, content.encode())
    except OSError as error:
        raise UserError(f"the {what} cannot be written to {output}: {error}. Give another file with -o.") from error


def render_page(
    records: list[Record],
    groups: Sequence[FoundGroup] = (),
    wish: ImageLimit | None = None,
    home: str = "",
    chance: Mapping[TaskOnDatasetKey, float] = MappingProxyType({}),
    unions: Document = NO_UNION,
) -> str:
    """The page as text.

    Args:
        home: the address of the leaderboard that the page belongs to.
        chance: the score of a constant answer, by `benchmark_key`.
        unions: scores under the union of norms.

    Raises:
        UserError: an example image that cannot be read.
    """
    found = boards(records, chance)
    shown = rooms(galleries(groups, records, wish or ImageLimit(IMAGES, MEGABYTES)))
    scripts = [script(name) for name in ("matrix.js", *(["viewer.js"] if shown else []))]
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            **assets(scripts),
            home=home,
            headline=headline(records, found[0]),
            board=found[0],
            boards=found,
            tables=[drawn(table) for table in attack_tables(task_tables(records))],
            corruptions=corruption_tables(records),
            corruption_note=NOTE,
            patches=patch_sheets(records, value_text),
            unions=unions,
            charts=_charts(records, found[0]),
            series=drawn_series(found[0]),
            controls=any(r.is_control for r in records),
            transfers=_transfers(records, found[0]),
            encoder_transfers=encoder_transfers(records),
            checks=checks(records),
            rooms=shown,
            damaged=any(exhibit.kind != "random" for room in shown for exhibit in room.exhibits),
            megabytes=_megabytes(shown),
            cost=cost_table(records),
            memory=any(r.provenance.peak_memory is not None for r in records),
            fact_tables=fact_tables(records),
            citations=citations(records),
            commands=commands(records),
            duration=duration(records),
            cells=len(records),
            remarks=remarks(records),
            downloads=[download(records, "json", "application/json"), download(records, "csv", "text/csv")],
        )
    )


@cache
def environment() -> "Environment":
    """Templates with everything escaped, and what they call; compiled once."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from robustprobe.report.page.marks import swatch

    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(share_text=share_text, number_text=number_text, ends_text=ends_text, swatch=swatch)
    made.globals.update(failed_text=failed_text, share_value=share_value, share_ends=share_ends)
    made.globals.update(svg=_svg, brief=lambda name: shortened(name, LEGIBLE))
    return made


def _svg(figure: Figure) -> Any:
    from markupsafe import Markup

    from robustprobe.report.page.svg import inline_svg

    return Markup(inline_svg(figure.draw(legend=figure.kind == "curve"), figure.words))


def script(name: str) -> Script:
    """A script of the page from its file."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    return Script(text, base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())


def assets(scripts: Sequence[Script]) -> dict[str, Any]:
    """Style and scripts as the templates expect them."""
    from markupsafe import Markup

    policy = " ".join(f"'sha256-{s.digest}'" for s in scripts) or "'none'"
    return {
        "style": Markup((FOLDER / "style.css").read_text(encoding="utf-8")),
        "scripts": [Markup(s.text) for s in scripts],
        "script_policy": Markup(policy),
    }


def _charts(records: list[Record], found: Board) -> dict[str, list[Figure]]:
    return {
        "profile": profile_figures(records, found),
        "eps": eps_figures(records, found),
        "label_free": label_free_figures(records, found),
        "heat": heat_figures(found),
        "trade": trade_figures(found),
        "curve": curve_figures(records, found),
    }


def _transfers(records: list[Record], found: Board) -> list[TransferMatrix]:
    """Transfer between tasks at the largest eps; empty where no attack was made for another task."""
    chosen = [r for r in records if r.is_clean or at(found.level, r.attack)]
    return transfer_matrices(chosen) if any(r.is_transfer for r in chosen) else []


def _megabytes(shown: list[ViewerDataset]) -> float:
    """Size of the pictures of a page."""
    sheets = [sheet for room in shown for exhibit in room.exhibits for sheet in exhibit.sheets]
    images = [panel.image for sheet in sheets for panel in sheet.panels]
    maps = [answer.picture for sheet in sheets for row in sheet.rows for answer in row.answers if answer.picture]
    truths = [row.truth for sheet in sheets for row in sheet.rows if row.truth]
    pictures = [*images, *maps, *truths]
    return sum(len(p.uri) for p in pictures) / 1e6


def download(records: list[Record], format: str, media_type: str) -> Download:
    """The table of all cells, as a file inside the page."""
    encoded = base64.b64encode(render(records, format, transfer=True).encode()).decode()
    return Download(f"robustprobe.{format}", f"data:{media_type};charset=utf-8;base64,{encoded}")
