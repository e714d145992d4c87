"""`robustprobe.compare`: results beside the paper's, other results or another encoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, final

from robustprobe.api.folders import as_stores
from robustprobe.core.arguments import checked_types
from robustprobe.core.errors import UserError
from robustprobe.report.comparisons import compare_results
from robustprobe.report.page.notebook import document_html
from robustprobe.report.tables.comparison import Comparison, render
from robustprobe.results.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from robustprobe.api.results import Results


@final
class ComparedResults:
    """Two sides compared number by number; a notebook shows it as a table.

    `verdict` has a sentence on all numbers and one for each task; empty beside published tables, which have no images.
    """

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self.verdict: list[str] = list(comparison.heading.get("verdict", ()))

    def table(self) -> "pd.DataFrame":
        """One row per number: both values with intervals, their difference (second minus first) and what it shows."""
        import pandas as pd

        return pd.DataFrame(self._comparison.rows)

    def to_latex(self) -> str:
        """The table for a paper; it needs the packages booktabs and graphicx."""
        return render(self._comparison, "latex")

    def __repr__(self) -> str:
        count = len(self._comparison.rows)
        said = self.verdict or [sheet.title for sheet in self._comparison.document.sheets]
        return "\n".join([f"Comparison of {count} number{'' if count == 1 else 's'}.", *said, ".table() .to_latex()"])

    def _repr_html_(self) -> str:
        document, heading = self._comparison.document, self.verdict[1:]
        notes = [note for note in document.notes if note not in heading]
        return document_html(document._replace(notes=notes), " ".join(heading))


@checked_types("first", "second")
def compare(
    first: "Results | str | Path",
    second: "Results | str | Path | None" = None,
    *,
    encoders: Sequence[str] = (),
    deacl: str | None = None,
) -> ComparedResults:
    """Results beside other results, the paper's tables, a published reference, or another encoder, paired over images.

    Args:
        first: what `evaluate` or `load_results` gave, or a folder of results.
        second: the same; or `"paper"`, or a name from `robustprobe list references`. None compares two encoders of
            `first`.
        encoders: two encoders by name or by the beginning of their digest: one of `first`, one of `second`.
        deacl: with `"paper"`, the encoder that stands for the paper's DINO after DeACL.

    Raises:
        UserError: nothing in common, unknown names, no results.

    Example:
        >>> import robustprobe as rp
        >>> encoders = ["bundled:scenes", "bundled:scenes-deacl"]
        >>> result = rp.evaluate(encoders, "scenes", "pgd", tasks="classification", limit=8)
        >>> rp.compare(result, encoders=encoders).verdict
    """
    other = second if second is None or isinstance(second, str) else _store(second)
    return ComparedResults(compare_results(_store(first), other, list(encoders), deacl))


def _store(results: "Results | str | Path") -> Store:
    stores = as_stores(results, "compare")
    if len(stores) != 1:
        raise UserError(f"compare takes one folder a side, not {len(stores)}; join them: `robustprobe merge`.")
    return stores[0]
