"""`robustprobe plot`: charts as files. Never imports torch."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def plot(
    folder: Path,
    /,
    *more: Path,
    kind: Literal["eps", "pareto", "heatmap", "curve", "examples"] = "eps",
    out: Annotated[Path | None, Parameter(alias="-o")] = None,
    samples: int = 1,
) -> None:
    """Draw a chart of the results of a folder, or of several together, as SVG, PNG or PDF.

    Parameters
    ----------
    folder
        The folder `robustprobe run --out` wrote.
    more
        Other such folders.
    kind
        eps: score against eps; pareto: clean against attacked; heatmap: what each attack left; curve: hardening over
        epochs; examples: an image under the attacks, drawn at random.
    out
        The file; its ending says the format. By default KIND.svg in the working folder.
    samples
        Images of each dataset that examples shows: one drawn at random and one chosen by harm in turn.
    """
    from robustprobe.report.charts.plot import write_plot

    print(write_plot([folder, *more], kind, out or Path(f"{kind}.svg"), samples).resolve())
