"""`robustprobe plot`: charts as files. Never imports torch."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from robustprobe.cli._numbers import WholeNumber


def plot(
    folder: Path,
    /,
    *more: Path,
    kind: Literal["profile", "eps", "pareto", "heatmap", "curve", "examples"] = "eps",
    out: Annotated[Path | None, Parameter(alias="-o")] = None,
    samples: WholeNumber = 1,
) -> None:
    """Draw a chart of the results of one or more folders as SVG, PNG or PDF.

    Parameters
    ----------
    folder
        A folder of results: the --out of `robustprobe run`.
    more
        More folders of results.
    kind
        profile: what is left for each use under each kind of perturbation; eps: score over eps; pareto: attacked score
        over clean score; heatmap: score under each attack; curve: score over epochs of hardening; examples: an image
        under each attack.
    out
        The file; its suffix sets the format. By default KIND.svg in the working folder.
    samples
        For examples: number of images of each dataset, alternating between random and extreme examples.
    """
    from robustprobe.report.charts.plot import write_plot

    print(write_plot([folder, *more], kind, out or Path(f"{kind}.svg"), samples).resolve())
