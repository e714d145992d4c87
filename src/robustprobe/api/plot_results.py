"""`robustprobe.plot` and `robustprobe.write_report`: charts and the page of results."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

from robustprobe.api.folders import as_stores
from robustprobe.core.arguments import checked_types
from robustprobe.report.charts.plot import draw, rendered, save_plot

if TYPE_CHECKING:
    import altair as alt

    from robustprobe.api.results import Results

PlotKind = Literal["profile", "eps", "pareto", "heatmap", "curve", "examples"]


@final
class ResultsPlot:
    """A chart; a notebook shows it. `chart` is the Altair chart itself, to be changed further."""

    def __init__(self, chart: "alt.TopLevelMixin", kind: str) -> None:
        self.chart, self.kind = chart, kind

    def save(self, path: str | Path) -> Path:
        """Write it; the ending .svg, .png or .pdf sets the format. Raises UserError where that cannot be done."""
        save_plot(Path(path), self.chart)
        return Path(path)

    def __repr__(self) -> str:
        return f"ResultsPlot: {self.kind}\n.save('{self.kind}.svg')"

    def _repr_svg_(self) -> str:
        return rendered(self.chart, ".svg").decode()


@checked_types("results")
def plot(
    results: "Results | str | Path | Sequence[str | Path]",
    kind: PlotKind = "eps",
    out: str | Path | None = None,
    *,
    samples: int = 1,
) -> ResultsPlot:
    """Draw results.

    Args:
        results: what `evaluate` or `load_results` gave, or one folder of results or several.
        kind: `profile`: what is left for each use under each kind of perturbation; `eps`: score over eps; `pareto`:
            attacked over clean score; `heatmap`: score under each attack; `curve`: score over epochs of hardening;
            `examples`: an image under each attack.
        out: also write it to this file, which ends in .svg, .png or .pdf.
        samples: for `examples`, images of each dataset.

    Raises:
        UserError: unknown kind, nothing to draw, no results, or a file that cannot be written.

    Example:
        >>> import robustprobe as rp
        >>> result = rp.evaluate("bundled:scenes", "scenes", "pgd", tasks="classification", eps=["2/255", "8/255"])
        >>> rp.plot(result, "eps", "eps.svg")
    """
    drawn = ResultsPlot(draw(as_stores(results, "plot"), kind, samples), kind)
    if out is not None:
        drawn.save(out)
    return drawn


@checked_types("results")
def write_report(
    results: "Results | str | Path | Sequence[str | Path]",
    path: str | Path,
    *,
    samples: int | Literal["all"] | None = None,
) -> Path:
    """Write the page of results, as `robustprobe report` does. `robustprobe.report` is a sub-package, hence the name.

    Args:
        results: what `evaluate` or `load_results` gave, or one folder of results or several.
        path: the HTML file.
        samples: example images of each dataset; by default 24, fewer where they take over 12 MB.

    Raises:
        UserError: no results, unreadable results, or a file that cannot be written.

    Example:
        >>> import robustprobe as rp
        >>> result = rp.evaluate("bundled:scenes", "scenes", "pgd", tasks="classification", limit=8)
        >>> rp.write_report(result, "page.html")  # the same as result.report("page.html")
    """
    from robustprobe.api.results import Results

    found = results if isinstance(results, Results) else Results(as_stores(results, "write_report"))
    return found.report(path, samples=samples)
