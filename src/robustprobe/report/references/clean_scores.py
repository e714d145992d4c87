"""Clean scores of known encoders beside the published ones: whether a protocol is off."""

from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml
from pydantic import Field

from robustprobe.core.spec_base import Spec, validated
from robustprobe.report.paper.published import is_attack, is_encoder, matches, paper
from robustprobe.report.tables.matrix import interval_text, number_text

if TYPE_CHECKING:
    from robustprobe.results.records import Record

FOLDER = Path(__file__).parents[2] / "assets" / "clean_scores"
PAPER = "Kowalczuk et al. 2024, arXiv:2407.12588, clean columns"
MOST_SHARE, MOST_RELATIVE = 0.05, 0.15
"""How far outside our interval a published score may lie: a share, or a part of a score in other units."""
ROUNDING = 0.0005
"""Half of the last decimal of what the files hold."""
FEW = 0.5
"""Heads fitted on a smaller part of the train images than this are worse for that reason alone."""
CLEAN = "clean"


class KnownScore(Spec):
    """A published score, and patterns of the encoder's names."""

    value: float
    names: tuple[str, ...] = Field(min_length=1)


class KnownTable(Spec):
    """Published scores of one source."""

    source: str
    scores: tuple[KnownScore, ...] = Field(min_length=1)


class KnownScores(Spec):
    """Published clean scores of one dataset and task, printed to three decimals; heads had all of `train_images`."""

    dataset: str
    task: str
    train_images: int
    tables: tuple[KnownTable, ...] = Field(min_length=1)


class Published(NamedTuple):
    """A published clean score, and whether a record is of its encoder."""

    dataset: str
    task: str
    value: float
    source: str
    is_encoder: Callable[["Record"], bool]
    rounding: float
    train_images: int | None = None


class CleanScore(NamedTuple):
    """A clean score of ours and the published one of the same encoder and dataset.

    `away` is the distance of the published score from our 95 % interval, 0 inside; `allowed` is how much is plausible
    for another head recipe or another choice of images. `few` is the share of the train images that our head was
    fitted on where that is small.
    """

    record: "Record"
    published: float
    source: str
    away: float
    allowed: float
    few: float | None = None

    @property
    def plausible(self) -> bool:
        return self.away <= self.allowed or (self.few is not None and not self.better)

    @property
    def better(self) -> bool:
        """Whether ours is the better score."""
        return (self.record.headline.value > self.published) == self.record.higher_is_better

    @property
    def text(self) -> str:
        """The two numbers and what they mean, in a sentence."""
        r, here = self.record, interval_text(self.record.headline)
        numbers = f"{r.metric} {here}, n = {r.n}; published {number_text(self.published)}"
        if self.away <= self.allowed:
            return f"{numbers}: plausible"
        outside = f"{self.away:.3f} outside our interval, {'better' if self.better else 'worse'} than published"
        if self.plausible:
            return f"{numbers}: {outside}, and fitted on {self.few:.1%} of the train images, so nothing follows"
        return f"{numbers}: {outside}"


def clean_scores(records: Iterable["Record"], deacl: str | None = None) -> list[CleanScore]:
    """Every clean record whose encoder and dataset have a published score: in the tables of Kowalczuk et al. (2024), or
    in a file of `assets/clean_scores`.
    """
    records = list(records)
    return [
        _score(record, known)
        for known in [*_of_paper(deacl), *_of_files()]
        for record in records
        if record.dataset == known.dataset and is_attack(record, known.task, CLEAN) and known.is_encoder(record)
    ]


def _of_paper(deacl: str | None) -> list[Published]:
    cells = [cell for cell in paper().cells() if cell.attack == CLEAN]
    return [
        Published(c.dataset, c.task, c.value, PAPER, partial(is_encoder, cell=c, deacl=deacl), paper().rounding)
        for c in cells
    ]


def _of_files() -> list[Published]:
    return [
        Published(
            known.dataset,
            known.task,
            score.value,
            table.source,
            is_encoder=partial(_is_named, names=score.names),
            rounding=ROUNDING,
            train_images=known.train_images,
        )
        for known in known_scores()
        for table in known.tables
        for score in table.scores
    ]


def _is_named(record: "Record", names: tuple[str, ...]) -> bool:
    return matches(record.encoder_spec or record.encoder, names)


@cache
def known_scores() -> list[KnownScores]:
    """The published clean scores of every file."""
    files = sorted(FOLDER.glob("*.yaml"))
    return [validated(KnownScores, yaml.safe_load(p.read_text(encoding="utf-8")), str(p)) for p in files]


def _score(record: "Record", known: Published) -> CleanScore:
    interval = record.headline
    away = max(interval.ci_low - known.value, known.value - interval.ci_high, 0.0)
    allowed = MOST_SHARE if record.unit == "share" else MOST_RELATIVE * known.value
    share = record.head.train_images / known.train_images if known.train_images else 1.0
    few = share if share < FEW else None
    return CleanScore(record, known.value, known.source, away, allowed + known.rounding, few)
