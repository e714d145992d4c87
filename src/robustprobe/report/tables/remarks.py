"""What is to be said of the numbers of a table together, in sentences beside them."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from robustprobe.results.labels import thread_counts

if TYPE_CHECKING:
    from robustprobe.results.records import Record


def remarks(records: Iterable["Record"]) -> list[str]:
    """Sentences on what numbers that stand side by side are numbers of, as far as it is not plain; often none."""
    known = list(records)
    return [text for remark in _REMARKS if (text := remark(known))]


def _threads(records: Sequence["Record"]) -> str:
    counts = thread_counts(records)
    if " and " not in counts:
        return ""
    return (
        f"Measured with {counts} threads: convolutions round otherwise with another number of threads, so small "
        "differences may be rounding. Keep one number with --threads."
    )


_REMARKS: tuple[Callable[[Sequence["Record"]], str], ...] = (_threads,)
