"""The legend of the charts: the line and marker of each encoder as a small SVG."""

from markupsafe import Markup

from robustprobe.report.charts.series import COLOURS, EncoderStyle

_OUTLINES = {
    "circle": "M14,3a4,4 0 1,0 0.01,0Z",
    "square": "M10.5,3.5h7v7h-7Z",
    "triangle-up": "M14,2.5l4.6,8h-9.2Z",
    "diamond": "M14,2l4,5l-4,5l-4,-5Z",
    "cross": "M12.5,2.5h3v3h3v3h-3v3h-3v-3h-3v-3h3Z",
    "triangle-down": "M14,11.5l4.6,-8h-9.2Z",
    "triangle-right": "M18.5,7l-8,4.6v-9.2Z",
}


def swatch(series: EncoderStyle) -> Markup:
    """Line and marker of an encoder as the charts draw them."""
    paint = f"var(--s{series.colour % len(COLOURS)})"
    dash = " ".join(map(str, series.dash))
    return Markup(
        f'<svg class="swatch" viewBox="0 0 28 14" aria-hidden="true" focusable="false" fill="{paint}" stroke="{paint}">'
        f'<path d="M0,7H28" stroke-width="2" stroke-dasharray="{dash}"/>'
        f'<path d="{_OUTLINES[series.shape]}" stroke="none"/></svg>'
    )
