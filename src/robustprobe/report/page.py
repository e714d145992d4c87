"""The page: one HTML file with the result in words, tables, the attacked images and where it all comes from."""

import base64
import hashlib
from pathlib import Path
from typing import NamedTuple

from robustprobe.errors import UserError
from robustprobe.report._checks import checks
from robustprobe.report._drawn import DrawnTable, drawn
from robustprobe.report._examples import galleries
from robustprobe.report._headline import headline
from robustprobe.report._matrix import task_tables
from robustprobe.report._origin import commands, duration, fact_tables
from robustprobe.report._viewer import rooms
from robustprobe.report.tables import render
from robustprobe.store import Record, Store, write_whole

FOLDER = Path(__file__).parent


class Download(NamedTuple):
    """A file inside the page."""

    name: str
    uri: str
    text: str


def write_page(store_folder: Path, output: Path) -> Path:
    """Write a store's page: one file that loads nothing from anywhere and also reads without scripts.

    Args:
        store_folder: what `robustprobe run --out` wrote.
        output: the HTML file.

    Returns:
        `output`.

    Raises:
        UserError: no results, unreadable results, or a file that cannot be written.
    """
    store = Store(store_folder)
    records = store.records()
    if not records:
        raise UserError(f"no finished cells in {store_folder}, so there is nothing to report; run the suite first.")
    content = render_page(store, records)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(output, content.encode())
    except OSError as error:
        raise UserError(f"the page cannot be written to {output}: {error}. Give another file with -o.") from error
    return output


def render_page(store: Store, records: list[Record]) -> str:
    """The page as text. Raises UserError for an example image that cannot be read."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (FOLDER / "viewer.js").read_text()
    return environment.get_template("page.html.j2").render(
        style=Markup((FOLDER / "style.css").read_text()),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        headline=headline(records),
        tables=[drawn(table) for table in task_tables(records)],
        transfer_tables=_transfer_tables(records),
        checks=checks(records),
        rooms=rooms(galleries(store, records)),
        fact_tables=fact_tables(records),
        commands=commands(records),
        duration=duration(records),
        cells=len(records),
        downloads=[_download(records, "json", "application/json"), _download(records, "csv", "text/csv")],
    )


def _transfer_tables(records: list[Record]) -> dict[str, DrawnTable]:
    """By task the table with attacks made for other tasks, where there are any."""
    crossed = {r.task for r in records if r.made_for not in ("", r.task)}
    return {table.task: drawn(table) for table in task_tables(records, transfer=True) if table.task in crossed}


def _download(records: list[Record], format: str, media_type: str) -> Download:
    text = render(records, format, transfer=True)
    encoded = base64.b64encode(text.encode()).decode()
    return Download(f"robustprobe.{format}", f"data:{media_type};charset=utf-8;base64,{encoded}", text)
