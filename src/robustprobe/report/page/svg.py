"""Charts as SVG inside the page: in the colours of the theme, with a text alternative and a tooltip on each mark."""

import html
import re
from typing import TYPE_CHECKING

from robustprobe.report.charts.series import COLOURS
from robustprobe.report.charts.vega import INK, RULE, SOFT, themed

if TYPE_CHECKING:
    import altair as alt

_THEME = {INK: "var(--ink)", SOFT: "var(--soft)", RULE: "var(--rule)"} | {
    colour: f"var(--s{position})" for position, colour in enumerate(COLOURS)
}
_PAINTED = re.compile("|".join(_THEME), re.IGNORECASE)
_TIPPED = re.compile(r'<path aria-label="([^"]*)" role="graphics-symbol" aria-roledescription="[^"]*"([^>]*?)/>')
_SPOKEN = re.compile(r' (?:role|aria-label|aria-roledescription|aria-hidden|class|pointer-events)="[^"]*"')
_HEAD = re.compile(r'<svg[^>]*? width="([\d.]+)" height="([\d.]+)" viewBox="([^"]*)"[^>]*>')


def inline_svg(chart: "alt.TopLevelMixin", words: str) -> str:
    """The chart as an SVG element whose text alternative is `words`."""
    import vl_convert

    drawn: str = vl_convert.vegalite_to_svg(themed(chart))
    tipped = _TIPPED.sub(r"<path\2><title>\1</title></path>", drawn)
    plain = _SPOKEN.sub("", tipped)
    painted = _PAINTED.sub(lambda found: _THEME[found[0].lower()], plain)
    head = r'<svg class="chart" role="img" aria-label="{}" width="\1" height="\2" viewBox="\3">'
    return _HEAD.sub(head.format(html.escape(words).replace("\\", r"\\")), painted, count=1)
