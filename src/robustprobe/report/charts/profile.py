"""The robustness profile: what each encoder keeps for every use under every kind of perturbation, as a dot plot."""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from robustprobe.core.sizes import threat_size_text
from robustprobe.metrics.intervals import Estimate
from robustprobe.metrics.statistics import WITHOUT_PATCH
from robustprobe.report.charts.figures import Figure, drawn_series
from robustprobe.report.charts.series import EncoderStyle
from robustprobe.report.tables.board import Board, TaskOnDataset
from robustprobe.report.tables.matrix import MISSING
from robustprobe.report.tables.shares import is_guess, kept, share_text
from robustprobe.results.records import Interval, Record

if TYPE_CHECKING:
    import altair as alt

UNPERTURBED = "clean"
MOST_SHOWN = 1.25
"""Shares above this are drawn at the end of the axis."""


class Perturbation(NamedTuple):
    """What was done to images, in the order of profiles: its kind, the unit of its size, and the largest size of each.

    Of perturbations of one kind and unit only those of the largest size count.
    """

    order: int
    kind: str
    unit: str
    size: float

    @property
    def label(self) -> str:
        """`label-free, eps 8/255`, or `patch, area 5%`; `clean` alone."""
        size = threat_size_text(self.size, self.unit).removesuffix(" (linf)")
        return f"{self.kind}, {size}" if self.size else self.kind


class _Kept(NamedTuple):
    """What an encoder keeps under a perturbation, and which attack made it."""

    encoder: EncoderStyle
    perturbation: Perturbation
    share: Estimate
    what: str


def perturbation_of(record: Record) -> Perturbation:
    """What a record's images went through: read from what the attack could see and what its size is."""
    kinds = (
        (record.is_clean, UNPERTURBED),
        (record.is_control, "random noise"),
        (record.is_corruption, "corruptions"),
        (record.is_patch, "patch"),
        (record.uses_training, "universal" if record.access == "encoder" else "universal for the task"),
        (record.access == "encoder", "label-free"),
        (True, "attack on the task"),
    )
    order, kind = next((place, kind) for place, (holds, kind) in enumerate(kinds) if holds)
    # Patches are the last: they are in no ball.
    order = len(kinds) if record.is_patch else order
    return (
        Perturbation(order, kind, "", 0.0)
        if record.is_clean
        else Perturbation(order, kind, record.attack.norm, record.attack.eps)
    )


def profile_figures(records: Sequence[Record], board: Board) -> list[Figure]:
    """One figure with a panel for each task on a dataset; none where nothing but clean scores was measured."""
    shown = [(benchmark, _panel(records, board, place)) for place, benchmark in enumerate(board.benchmarks)]
    panels = [(benchmark, found) for benchmark, found in shown if any(one.perturbation.size for one in found)]
    if not panels:
        return []
    perturbations = sorted({one.perturbation for _, found in panels for one in found})
    encoders = [s for s in drawn_series(board) if any(one.encoder == s for _, found in panels for one in found)]
    titles = [f"{benchmark.task.capitalize()} on {benchmark.dataset}" for benchmark, _ in panels]
    drawn = [(title, [_dot(one) for one in found]) for title, (_, found) in zip(titles, panels, strict=True)]
    table = [
        [title, encoder.name, *(_text(found, encoder, perturbation) for perturbation in perturbations)]
        for title, (_, found) in zip(titles, panels, strict=True)
        for encoder in encoders
    ]
    least = min((one for _, found in panels for one in found), key=lambda one: one.share.value)
    return [
        Figure(
            kind="profile",
            title="Robustness profile",
            words=f"Dot plot: share of the best clean score above chance that {len(encoders)} encoders reach for "
            f"{len(panels)} uses under {len(perturbations)} kinds of perturbation. Smallest: {_words(least)}.",
            draw=partial(_draw, drawn, [perturbation.label for perturbation in perturbations], encoders),
            headings=["use", "encoder", *(perturbation.label for perturbation in perturbations)],
            rows=table,
        )
    ]


def _panel(records: Iterable[Record], board: Board, place: int) -> list[_Kept]:
    """What encoders keep for one task on one dataset; encoders whose clean score is a guess are left out."""
    benchmark, styles = board.benchmarks[place], {s.name: s for s in drawn_series(board)}
    cells: dict[tuple[str, Perturbation], dict[Hashable, Record]] = {}
    for record in sorted(records, key=lambda r: (r.provenance.started, r.fingerprint)):
        encoder = board.encoder(record)
        if encoder in styles and board.benchmark(record) == place and not record.is_transfer:
            cells.setdefault((encoder, perturbation_of(record)), {})[record.attack_key] = record
    perturbations = _largest({perturbation for _, perturbation in cells})
    found = {
        (encoder, perturbation): worst
        for (encoder, perturbation), some in cells.items()
        if perturbation in perturbations
        and (worst := _one(perturbation, some, [own for (_, h), own in cells.items() if h == perturbation]))
    }
    able = {
        encoder
        for (encoder, perturbation), one in found.items()
        if not perturbation.size and not benchmark.is_guess(one.records[0])
    }
    known = {key: one for key, one in found.items() if key[0] in able}
    return [
        _Kept(styles[encoder], perturbation, share, one.what)
        for (encoder, perturbation), one in sorted(
            known.items(), key=lambda item: (item[0][1], styles[item[0][0]].colour)
        )
        if (
            share := _share(benchmark, one, [other for key, other in known.items() if key[1] in (perturbation, _CLEAN)])
        )
    ]


_CLEAN = Perturbation(0, UNPERTURBED, "", 0.0)


class _Scored(NamedTuple):
    """A score under a perturbation, that of the same pixels without it where known, and the records behind both."""

    score: Interval
    unperturbed: Interval | None
    what: str
    records: list[Record]


def _largest(perturbations: Iterable[Perturbation]) -> set[Perturbation]:
    """Of each kind and unit the largest."""
    largest: dict[tuple[str, str], Perturbation] = {}
    for perturbation in perturbations:
        key = (perturbation.kind, perturbation.unit)
        largest[key] = max(perturbation, largest.get(key, perturbation), key=lambda one: one.size)
    return set(largest.values())


def _one(
    perturbation: Perturbation, own: dict[Hashable, Record], of_all: Sequence[dict[Hashable, Record]]
) -> _Scored | None:
    """The mean of corruptions where none is missing that another encoder has; of attacks the worst."""
    records = [r for r in own.values() if math.isfinite(r.headline.value)]
    if not records:
        return None
    if records[0].is_corruption:
        names = {key for some in of_all for key in some}
        count = len(names)
        what = records[0].attack.label if count == 1 else f"mean of {count}"
        return _Scored(_mean([r.headline for r in records]), None, what, records) if len(records) == count else None
    sign = 1 if records[0].higher_is_better else -1
    worst = min(records, key=lambda r: sign * r.headline.value)
    return _Scored(worst.headline, worst.metrics.get(f"{worst.metric} {WITHOUT_PATCH}"), worst.attack.label, [worst])


def _mean(intervals: Sequence[Interval]) -> Interval:
    """The mean of values and of ends, which is too wide where errors are independent."""
    ends = {name: sum(getattr(i, name) for i in intervals) / len(intervals) for name in Interval.model_fields}
    return Interval(**ends)


def _share(benchmark: TaskOnDataset, one: _Scored, others: Sequence[_Scored]) -> Estimate | None:
    """Of the best clean score above chance; of a patch by scores and chance of the pixels outside of it."""
    higher, floor = benchmark.higher_is_better, benchmark.floor
    clean = [other.score for other in others if other.records[0].is_clean]
    if one.unperturbed is not None:
        chance = one.records[0].chance
        floor = floor if chance is None else chance
        clean = [
            other.unperturbed
            for other in others
            if other.unperturbed and not is_guess(other.unperturbed, floor, higher)
        ]
    if not clean:
        return None
    best = max(clean, key=lambda interval: interval.value * (1 if higher else -1))
    return kept(best, one.score, floor, higher)


def _dot(one: _Kept) -> dict[str, Any]:
    value, low, high = (min(end, MOST_SHOWN) for end in one.share)
    names = {"encoder": one.encoder.short, "perturbation": one.perturbation.label}
    return {**names, "value": value, "low": low, "high": high, "words": _words(one)}


def _words(one: _Kept) -> str:
    made = f" ({one.what})" if one.perturbation.size else ""
    return f"{one.encoder.name}, {one.perturbation.label}{made}: {share_text(one.share)}"


def _text(found: Sequence[_Kept], encoder: EncoderStyle, perturbation: Perturbation) -> str:
    return next(
        (share_text(one.share) for one in found if (one.encoder, one.perturbation) == (encoder, perturbation)), MISSING
    )


def _draw(*content: Any, legend: bool = False) -> "alt.TopLevelMixin":
    from robustprobe.report.charts.vega import profile_chart

    draw: Callable[..., alt.TopLevelMixin] = profile_chart
    return draw(*content, most=MOST_SHOWN, legend=legend)
