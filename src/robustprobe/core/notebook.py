"""An object as a notebook shows it: a heading, facts, and rows of pictures with captions, as HTML without scripts."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

SIDE = 112
"""Width of a picture in CSS pixels."""


class CaptionedPicture(NamedTuple):
    """A picture as a data URI, and what is printed below it."""

    uri: str
    caption: str


def card_html(title: str, facts: Mapping[str, str], rows: Sequence[Sequence[CaptionedPicture]] = ()) -> str:
    """A piece of HTML that needs no style sheet; every text in it is escaped. Colours are those of the notebook."""
    told = "".join(
        f'<tr><th scope="row" style="text-align:left;font-weight:normal;opacity:.75;padding-right:1.5em">{escape(name)}'
        f'</th><td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in facts.items()
    )
    shown = "".join(
        f'<div style="display:flex;gap:8px;margin-top:8px">{"".join(map(_figure, row))}</div>' for row in rows
    )
    heading = f'<p style="font-weight:600;margin:0 0 .3em">{escape(title)}</p>'
    return (
        f'<div class="robustprobe" style="overflow-x:auto">{heading}'
        f'<table style="border-collapse:collapse">{told}</table>{shown}</div>'
    )


def in_notebook() -> bool:
    """Whether output goes to a notebook's cell."""
    from rich.console import Console

    return Console().is_jupyter


def _figure(picture: CaptionedPicture) -> str:
    return (
        f'<figure style="margin:0;width:{SIDE}px"><img src="{escape(picture.uri)}" alt="{escape(picture.caption)}" '
        f'style="width:{SIDE}px;image-rendering:pixelated"><figcaption style="font-size:smaller">'
        f"{escape(picture.caption)}</figcaption></figure>"
    )
