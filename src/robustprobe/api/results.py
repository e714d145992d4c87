"""`robustprobe.Results` and `robustprobe.load_results`: finished numbers as a data frame that shows itself."""

import math
import shutil
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast, final

import pandas as pd

from robustprobe.core.arguments import checked_types
from robustprobe.core.errors import UserError
from robustprobe.report.page.examples import ImageLimit
from robustprobe.report.page.lead import lead
from robustprobe.report.page.notebook import results_html
from robustprobe.report.page.render import write_page
from robustprobe.report.tables.norm_unions import KEYS as UNION_KEYS
from robustprobe.report.tables.norm_unions import norm_unions
from robustprobe.report.tables.results import KEYS, render, table_rows
from robustprobe.report.tables.tidy import tidy_rows
from robustprobe.results.records import Record
from robustprobe.results.store import Store
from robustprobe.results.union import Found, finished


@final
class Results(pd.DataFrame):
    """Finished numbers: a data frame with one row per number, which also has the images behind them.

    Everything a data frame can do stays; what is made from it, such as a selection of rows, is a plain data frame.
    In a notebook it shows itself as tables with 95 % intervals.

    Columns are those of `robustprobe table DIR --format csv`: `encoder`, `dataset`, `task`, `attack`, `eps`
    (in [0, 1]), `metric`, `value`, `ci_low`, `ci_high`, `n` and others.

    Example:
        >>> import robustprobe as rp
        >>> result = rp.evaluate("bundled:scenes", "scenes", "pgd", tasks="classification", limit=8)
        >>> result.table()[["task", "attack", "value", "ci_low", "ci_high"]]
        >>> result.rows()[["id", "attack", "eps", "score"]]
        >>> result.report("page.html")
    """

    def __init__(self, stores: Sequence[Store], *, transfer: bool = False) -> None:
        found = finished(stores, "show")
        super().__init__(table_rows([one.record for one in found], transfer), columns=list(KEYS))  # type: ignore[call-arg]
        # Past pandas, which takes a list that is set for an attempt to add a column.
        object.__setattr__(self, "_found", tuple(found))
        object.__setattr__(self, "_stores", tuple(stores))
        object.__setattr__(self, "_transfer", transfer)

    def __reduce__(self) -> Any:
        """A copy in another process is a plain data frame: the folder may not exist there."""
        return self.table().__reduce__()

    @property
    def stores(self) -> tuple[Store, ...]:
        """The folders of results, or parts of folders."""
        return cast(tuple[Store, ...], self._stores)

    @property
    def found(self) -> tuple[Found, ...]:
        """Every record, and the store it is in."""
        return cast(tuple[Found, ...], self._found)

    @property
    def records(self) -> list[Record]:
        """Everything that is recorded of each number: settings, checks, provenance, versions."""
        return [one.record for one in self.found]

    @property
    def with_transfer(self) -> bool:
        """Whether numbers whose attack was made for another task's head are among the rows."""
        return bool(self._transfer)

    @property
    def headline(self) -> str:
        """What was found, in the sentences that head the page."""
        return lead(self.found)

    def table(self, transfer: bool | None = None) -> pd.DataFrame:
        """One row per number, as a plain data frame.

        Args:
            transfer: also numbers whose attack was made for another task's head; by default as `evaluate` was asked.
        """
        return pd.DataFrame(table_rows(self.records, self._wanted(transfer)), columns=list(KEYS))

    def rows(self, transfer: bool | None = None) -> pd.DataFrame:
        """One row per image and number: `encoder`, `encoder_digest`, `attack`, `eps`, `id`, `score`, `iou`, ...

        `score` is in the unit of the task's metric (1 or 0, IoU, RMSE, angle), `score_8bit` the same after rounding to
        8 bits, `perturbation` the size in the attack's norm. The mIoU of a table comes from the pixels of all images
        together, so it is not the mean of `score`.

        Args:
            transfer: as for `table`.

        Raises:
            UserError: rows that cannot be read.

        Example:
            >>> import robustprobe as rp
            >>> result = rp.evaluate("bundled:scenes", "scenes", "pgd", tasks="classification", limit=8)
            >>> result.rows().groupby("attack")["score"].mean()
        """
        wanted = self._wanted(transfer)
        parts = [tidy_rows(store, [f.record for f in self.found if f.store is store], wanted) for store in self.stores]
        frames: list[pd.DataFrame] = [part.to_pandas() for part in parts]
        return pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)

    def union_of_norms(self) -> pd.DataFrame:
        """Scores under the union of the norms that were run: each image counts by its worst attack of all of them.

        Returns:
            one row per encoder, dataset, task and combination of balls: `balls`, such as `linf 2/255 + l2 0.5`,
            `attacks`, `metric`, `value`, `ci_low`, `ci_high`, `n`, and `alone`, the scores under each ball alone.

        Raises:
            UserError: no encoder was attacked in two norms on the same images, or rows that cannot be read.
        """
        return pd.DataFrame([one.facts for one in norm_unions(self.found)], columns=list(UNION_KEYS))

    def to_latex(  # type: ignore[override]
        self, *, transfer: bool | None = None, layout: Literal["all", "paper"] = "all"
    ) -> str:
        """Tables for a paper, with intervals and notes; they need the packages booktabs and graphicx.

        Args:
            transfer: as for `table`.
            layout: `paper` for results at Linf 8/255 in the columns of the paper's tables, which have no transfer.

        Raises:
            UserError: an unknown layout, or transfer tables in the paper's.
        """
        wanted = self._wanted(transfer if transfer is not None or layout == "all" else False)
        return render(self.records, "latex", wanted, layout)

    @checked_types("self")
    def report(self, path: str | Path, *, samples: int | Literal["all"] | None = None) -> Path:
        """Write the page of results: one HTML file with the headline, tables, charts, images and sanity checks.

        Args:
            path: the file.
            samples: example images of each dataset; by default 24, fewer where they take over 12 MB.

        Returns:
            `path`.

        Raises:
            UserError: a file that cannot be written, or results that cannot be read.
        """
        return write_page(list(self.stores), Path(path), _limit(samples))

    def _wanted(self, transfer: bool | None) -> bool:
        return self.with_transfer if transfer is None else transfer

    def __repr__(self) -> str:
        numbers = f"{len(self)} number{'' if len(self) == 1 else 's'}"
        names = ", ".join(dict.fromkeys(record.encoder for record in self.records))
        return f"Results: {numbers} of {names}. {self.headline}\n.table() .rows() .to_latex() .report(path)"

    def _repr_html_(self) -> str:
        return results_html(self.found, self._wanted(None))


@checked_types()
def load_results(folder: str | Path, *more: str | Path, transfer: bool = False) -> Results:
    """The results of one or more folders, as `evaluate` gives them.

    Args:
        folder: what `robustprobe run --out` or `evaluate(out=...)` wrote.
        more: other such folders.
        transfer: also numbers whose attack was made for another task than the one that judged.

    Raises:
        UserError: no results, unreadable results, or different results for one cell.

    Example:
        >>> import robustprobe as rp
        >>> result = rp.load_results("results")
        >>> result.rows()[["encoder", "attack", "eps", "id", "score"]]
    """
    return Results([Store(Path(place)) for place in (folder, *more)], transfer=transfer)


def kept_while_used(results: Results, folder: Path) -> Results:
    """The same results; their folder is removed as soon as nobody holds them any more."""
    weakref.finalize(results, shutil.rmtree, folder, ignore_errors=True)
    return results


def _limit(samples: int | Literal["all"] | None) -> ImageLimit | None:
    if samples is None:
        return None
    if samples != "all" and (isinstance(samples, str) or samples < 0):
        raise UserError(f"samples '{samples}' is neither a number of images nor 'all'; give one of the two.")
    return ImageLimit(None if samples == "all" else int(samples), math.inf)
