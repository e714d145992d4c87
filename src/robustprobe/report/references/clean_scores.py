"""Clean scores of known encoders beside the published ones: whether a protocol is off."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from robustprobe.report.paper.published import PaperCell, is_attack, is_encoder, paper
from robustprobe.report.tables.matrix import interval_text, number_text

if TYPE_CHECKING:
    from robustprobe.results.records import Record

MOST_SHARE, MOST_RELATIVE = 0.05, 0.15
"""How far outside our interval a published score may lie: a share, or a part of a score in other units."""
CLEAN = "clean"


class CleanScore(NamedTuple):
    """A clean score of ours and the published one of the same encoder and dataset.

    `away` is the distance of the published score from our 95 % interval, 0 inside; `allowed` is how much is plausible
    for another head recipe or another choice of images.
    """

    record: "Record"
    published: float
    away: float
    allowed: float

    @property
    def plausible(self) -> bool:
        return self.away <= self.allowed

    @property
    def text(self) -> str:
        """The two numbers and what they mean, in a sentence."""
        r, here = self.record, interval_text(self.record.headline)
        numbers = f"{r.metric} {here}, n = {r.n}; published {number_text(self.published)}"
        if self.plausible:
            return f"{numbers}: plausible"
        better = (r.headline.value > self.published) == r.higher_is_better
        return f"{numbers}: {self.away:.3f} outside our interval, {'better' if better else 'worse'} than published"


def clean_scores(records: Iterable["Record"], deacl: str | None = None) -> list[CleanScore]:
    """Every clean record whose encoder and dataset are in the tables of Kowalczuk et al. (2024)."""
    records = list(records)
    cells = [cell for cell in paper().cells() if cell.attack == CLEAN]
    return [
        _score(record, cell)
        for cell in cells
        for record in records
        if record.dataset == cell.dataset and is_attack(record, cell.task, CLEAN) and is_encoder(record, cell, deacl)
    ]


def _score(record: "Record", cell: PaperCell) -> CleanScore:
    interval = record.headline
    away = max(interval.ci_low - cell.value, cell.value - interval.ci_high, 0.0)
    allowed = MOST_SHARE if record.unit == "share" else MOST_RELATIVE * cell.value
    return CleanScore(record, cell.value, away, allowed + paper().rounding)
