"""Scores under the union of norms: an image counts by its worst attack of all norms that were run on it.

Robustness to several norms at once is defined so by Tramèr and Boneh (2019, section 2) and Maini et al. (2020).
Rows on disk are read; nothing is attacked again.
"""

import itertools
import json
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from robustprobe.core.eps import USUAL
from robustprobe.core.errors import UserError
from robustprobe.core.sizes import format_eps
from robustprobe.metrics.paired import paired_rows
from robustprobe.metrics.statistics import Columns, estimate
from robustprobe.metrics.worst_case import worst_case
from robustprobe.report.tables.blocks import MARK
from robustprobe.report.tables.matrix import change_text, failed_checks, in_order, interval_text, line_key, line_names
from robustprobe.report.tables.sheet import Document, Row, Sheet, csv_text, finite, json_text, text
from robustprobe.results.labels import record_label
from robustprobe.results.records import CheckFact, Interval, Record, doubts_of
from robustprobe.results.union import Found

KEYS = (
    *("encoder", "dataset", "task", "balls", "attacks", "metric", "value", "ci_low", "ci_high", "n"),
    *("higher_is_better", "unit", "alone", "failed_checks"),
)
NOTE = (
    "Union of norms: each image counts by the worst of all attacks in the balls that are named, made for the task that "
    "judges or on the encoder alone. Brackets are 95 % intervals over images. For mIoU, which is one of the whole set, "
    "attacks are chosen greedily image by image so that it becomes low, as the attack ensemble does."
)
Ball = tuple[str, float]
NORMS = tuple(USUAL)


class NormUnion(NamedTuple):
    """One encoder, dataset and task under the union of balls, and under each ball alone; `rows` are those of the worst
    attack on each image, by column.
    """

    records: list[Record]
    balls: tuple[Ball, ...]
    interval: Interval
    alone: tuple[Interval, ...]
    rows: dict[str, list[Any]]

    @property
    def facts(self) -> dict[str, Any]:
        """A row for programs, with the keys `KEYS`; `alone` maps each ball to the score under it alone."""
        first = self.records[0]
        return {
            **{key: getattr(first, key) for key in ("encoder", "dataset", "task", "metric", "n", "unit")},
            "higher_is_better": first.higher_is_better,
            "balls": self.balls_text,
            "attacks": "; ".join(self.attacks),
            **self.interval.model_dump(),
            "alone": {_ball_text(ball): one.value for ball, one in zip(self.balls, self.alone, strict=True)},
            "failed_checks": "; ".join(dict.fromkeys(check.name for check in self.doubts)),
        }

    @property
    def doubts(self) -> list[CheckFact]:
        """Failed checks of its attacks that put the number in doubt, as `Record.doubts`."""
        of_attacks = (check for record in self.records for check in record.doubts)
        return doubts_of(of_attacks, self.records[0].is_nothing(self.interval.value))

    @property
    def attacks(self) -> tuple[str, ...]:
        """The labels of its attacks."""
        return tuple(dict.fromkeys(record_label(r) for r in self.records))

    @property
    def balls_text(self) -> str:
        """`linf 2/255 + l2 0.5`."""
        return " + ".join(map(_ball_text, self.balls))


def norm_unions(found: Sequence[Found]) -> list[NormUnion]:
    """The union of norms for each encoder, dataset and task with attacks in balls of two norms or more.

    Of several eps of a norm each is combined with each of the other norms.

    Raises:
        UserError: rows that are missing or damaged, or no encoder was attacked in two norms.
    """
    unions = known_unions(found)
    if not unions:
        norms = sorted({r.attack.norm for some in _groups(found) for r in some})
        raise UserError(
            "a union of norms needs attacks in balls of two norms on the same images of one encoder and task; "
            f"the results have {', '.join(norms) or 'none'}. Run the same command again with another --norm and --eps "
            "into the same folder."
        )
    return unions


def known_unions(found: Sequence[Found]) -> list[NormUnion]:
    """The same; none where no encoder was attacked in two norms."""
    stores = {one.record.fingerprint: one.store for one in found}
    unions = []
    for records in _groups(found):
        balls = {(r.attack.norm, r.attack.eps): None for r in records}
        levels = [sorted(b for b in balls if b[0] == norm) for norm in NORMS if any(b[0] == norm for b in balls)]
        if len(levels) > 1:
            rows = [(r, _columns(stores[r.fingerprint].rows(r.fingerprint).to_pydict())) for r in records]
            unions += [_union(rows, chosen) for chosen in itertools.product(*levels)]
    return unions


def _groups(found: Sequence[Found]) -> list[list[Record]]:
    """Attacks in balls, by encoder, dataset and task."""
    groups: dict[Hashable, list[Record]] = {}
    for record in in_order([one.record for one in found], transfer=False):
        if record.is_in_ball and not record.is_clean and not record.is_control and record.statistic is not None:
            key = (record.task, line_key(record), record.attack_at, record.metric)
            groups.setdefault(key, []).append(record)
    return list(groups.values())


def _columns(rows: dict[str, list[Any]]) -> Columns:
    """Columns in the order of ids, so that all records have the images in one order."""
    order = sorted(range(len(rows["id"])), key=lambda place: str(rows["id"][place]))
    return {name: np.asarray([values[place] for place in order]) for name, values in rows.items()}


def _union(rows: Sequence[tuple[Record, Columns]], balls: tuple[Ball, ...]) -> NormUnion:
    inside = {ball: [(r, c) for r, c in rows if (r.attack.norm, r.attack.eps) == ball] for ball in balls}
    every = [one for ball in balls for one in inside[ball]]
    alone = tuple(_interval(every[0][0], _worst(inside[ball])) for ball in balls)
    worst = _worst(every)
    named = {"id": every[0][1]["id"].tolist(), **{name: column.tolist() for name, column in worst.items()}}
    return NormUnion([record for record, _ in every], balls, _interval(every[0][0], worst), alone, named)


def _worst(attacks: Sequence[tuple[Record, Columns]]) -> Columns:
    record = attacks[0][0]
    assert record.statistic is not None
    return worst_case(record.statistic, record.higher_is_better, [columns for _, columns in attacks])


def _interval(record: Record, rows: Columns) -> Interval:
    assert record.statistic is not None
    return Interval(**estimate(record.statistic, rows)._asdict())


def _ball_text(ball: Ball) -> str:
    return f"{ball[0]} {format_eps(ball[1], ball[0])}"


def union_document(unions: Sequence[NormUnion]) -> Document:
    """A table for people for each task and combination of balls."""
    sheets = []
    for (task, metric, balls), some in _by_table(unions).items():
        names = line_names([one.records[0] for one in some])
        rows = [
            Row(list(name), [_marked(one, one.interval), *(interval_text(alone) for alone in one.alone)])
            for name, one in zip(names, some, strict=True)
        ]
        columns = ["union", *(f"{_ball_text(ball)} alone" for ball in balls)]
        sheets.append(Sheet(f"{task}, {metric}", ["dataset", "encoder"], columns, rows))
    records = list({r.fingerprint: r for one in unions for r in one.records}.values())
    doubtful = list({r.fingerprint: r for one in unions if one.doubts for r in one.records}.values())
    attacks = "Attacks: " + ", ".join(dict.fromkeys(record_label(r) for r in records)) + "."
    return Document(sheets, [NOTE, attacks, *(f"{MARK} {text}" for text in failed_checks(doubtful))])


def compared_sheets(first: Sequence[NormUnion], second: Sequence[NormUnion], across: bool) -> list[Sheet]:
    """For each task and combination of balls that both sides have under the same attacks: both scores under the union,
    and the difference second minus first with its paired interval.

    Args:
        across: the sides are two encoders, whose names need not be the same.
    """

    def key(one: NormUnion) -> tuple[Hashable, ...]:
        record = one.records[0]
        return (record.dataset, record.task, record.metric, one.balls, one.attacks, "" if across else record.encoder)

    others = {key(one): one for one in second}
    pairs = [(one, others[key(one)]) for one in first if key(one) in others]
    sheets = []
    for (task, metric, balls), some in _by_table([one for one, _ in pairs]).items():
        rows = [
            Row(
                [own.records[0].dataset, *([] if across else [own.records[0].encoder])],
                [_marked(own, own.interval), _marked(other, other.interval), _difference(own, other)],
            )
            for own, other in pairs
            if any(own is one for one in some)
        ]
        heads = ["dataset", *([] if across else ["encoder"])]
        title = f"Union of norms, {task}, {metric}: {' + '.join(map(_ball_text, balls))}"
        sheets.append(Sheet(title, heads, ["first", "second", "diff"], rows))
    return sheets


def _difference(first: NormUnion, second: NormUnion) -> str:
    """Second minus first with its paired interval, where both are of the same images."""
    statistic = first.records[0].statistic
    assert statistic is not None
    value = change_text(second.interval.value - first.interval.value)
    found = paired_rows(statistic, first.rows, second.rows).estimate
    return f"{value} [{change_text(found.ci_low)}, {change_text(found.ci_high)}]" if found else value


def render(unions: Sequence[NormUnion], format: str) -> str:
    """Unions as text.

    Args:
        format: `rich` (as on a terminal, without colour), `md`, `latex`, `csv` or `json`.

    Raises:
        UserError: unknown format.
    """
    rows = [finite(one.facts) for one in unions]
    if format == "json":
        return json_text(rows)
    if format == "csv":
        return csv_text([{**row, "alone": json.dumps(row["alone"])} for row in rows], KEYS)
    return text(union_document(unions), format) + "\n"


def _by_table(unions: Sequence[NormUnion]) -> dict[tuple[str, str, tuple[Ball, ...]], list[NormUnion]]:
    found: dict[tuple[str, str, tuple[Ball, ...]], list[NormUnion]] = {}
    for one in unions:
        found.setdefault((one.records[0].task, one.records[0].metric, one.balls), []).append(one)
    return found


def _marked(one: NormUnion, interval: Interval) -> str:
    return interval_text(interval) + (f" {MARK}" if one.doubts else "")
