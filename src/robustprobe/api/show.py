"""`robustprobe.show`: an object as a notebook or a terminal can show it."""

from typing import Protocol

from rich.console import Console
from rich.text import Text

from robustprobe.core.notebook import in_notebook


class Showable(Protocol):
    """What `show` takes: results, comparisons, plots, models and attacked images; they show themselves in notebooks."""

    def __repr__(self) -> str: ...


def show(result: Showable) -> None:
    """Show results, a comparison, a plot, a model or attacked images.

    In a notebook it is displayed where the call stands, so that one cell can show several. On a terminal results are
    printed as the program `robustprobe` prints them: the headline, a table per task, and failed sanity checks.

    Example:
        >>> import robustprobe as rp
        >>> rp.show(rp.evaluate("bundled:scenes", "scenes", "pgd", tasks="classification", limit=8))
    """
    if in_notebook():
        from IPython.display import display

        display(result)
        return
    from robustprobe.api.results import Results

    if not isinstance(result, Results):
        print(result)
        return
    from robustprobe.report.tables.results import print_rich

    console = Console(markup=False, emoji=False)
    console.print(Text(result.headline, style="bold"))
    console.print()
    pointer = "What was measured where: .report(path) writes the page."
    print_rich(result.records, result.with_transfer, console, pointer=pointer)
