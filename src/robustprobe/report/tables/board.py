"""The ranking of encoders at the largest eps: their scores by task and attack, their ranks, and the missing cells."""

import math
from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.sizes import threat_size_text
from robustprobe.metrics.intervals import Estimate
from robustprobe.report.tables.matrix import Column, attack_order, level_order
from robustprobe.report.tables.shares import Ranks, is_guess, kept, mean_kept, ranks
from robustprobe.results.labels import attack_labels, distinctions, eps_text, head_text
from robustprobe.results.records import AttackKey, Interval, Record

TaskOnDatasetKey = tuple[Hashable, ...]
CLEAN = AttackSpec(name="clean", eps=0, steps=1)


class Level(NamedTuple):
    """The norm and eps of the attacks that a board compares."""

    norm: str
    eps: float


class TaskOnDataset(NamedTuple):
    """The columns of one task on one dataset; `chance` is the score of a constant answer, None where not known."""

    task: str
    dataset: str
    metric: str
    unit: str
    higher_is_better: bool
    columns: list[Column]
    chance: float | None

    @property
    def floor(self) -> float:
        """What counts as nothing left: the level of chance, else 0 for scores; NaN for errors, where no value is."""
        if self.chance is not None:
            return self.chance
        return 0.0 if self.higher_is_better else math.nan

    def is_guess(self, clean: Record) -> bool:
        """Whether the interval of a clean score or error reaches the level of chance."""
        return is_guess(clean.headline, self.floor, self.higher_is_better)

    def kept(self, clean: Interval, attacked: Interval) -> Estimate | None:
        """The share of what is better than chance that is left; None where nothing is, or chance is not known."""
        return kept(clean, attacked, self.floor, self.higher_is_better)

    def is_worse_than_constant(self, record: Record) -> bool:
        """Whether the best constant answer does better than this one."""
        value = record.headline.value
        return value < self.floor if self.higher_is_better else value > self.floor


class Strongest(NamedTuple):
    """The strongest task-specific attack on an encoder: its label, the clean and the attacked record, and the share of
    the best clean score above chance that it reaches; None where no clean score is above chance.
    """

    attack: str
    clean: Record
    attacked: Record
    share: Estimate | None = None


class BoardRow(NamedTuple):
    """One encoder: its cells and its strongest attack, for each benchmark (a task on a dataset).

    `robust` is the attacked score above chance relative to the best clean score above chance of the encoders compared,
    mean over benchmarks; encoders are ranked by it. `guesses` are benchmarks whose clean score is not above chance.
    `ranks` is None where a benchmark is incomplete, or where every benchmark is a guess.
    """

    encoder: str
    cells: list[list[Record | None]]
    benchmarks: list[Strongest | None]
    robust: Estimate | None
    ranks: Ranks | None
    missing: list[str]
    guesses: list[str]

    @property
    def is_blind(self) -> bool:
        """Whether no clean score is above chance."""
        return 0 < len(self.guesses) == len(self.benchmarks)


class Board(NamedTuple):
    """Encoders with all cells of every benchmark, the most robust first; then the others, unranked.

    A clean score that is not above chance is never the best one, so such an encoder changes no rank.
    """

    level: Level | None
    benchmarks: list[TaskOnDataset]
    rows: list[BoardRow]
    names: Mapping[tuple[Hashable, ...], str]
    positions: Mapping[tuple[Hashable, ...], int]
    best: list[Interval | None]
    """The best clean score of each benchmark that is above chance."""

    def encoder(self, record: Record) -> str | None:
        """The row that a record of any eps belongs to."""
        return self.names.get(_row_key(record))

    def benchmark(self, record: Record) -> int | None:
        """The index of the benchmark that a record of any eps belongs to."""
        return self.positions.get(benchmark_key(record))

    @property
    def ranked(self) -> list[BoardRow]:
        return [row for row in self.rows if row.ranks]

    @property
    def incomplete(self) -> list[BoardRow]:
        return [row for row in self.rows if not row.ranks]

    @property
    def level_text(self) -> str:
        """`eps 8/255 (linf)`."""
        return threat_size_text(self.level.eps, self.level.norm) if self.level else "no eps"


def boards(records: Sequence[Record], chance: Mapping[TaskOnDatasetKey, float] = MappingProxyType({})) -> list[Board]:
    """A ranking for each norm and eps of the attacks of a store, as `board` makes it: the largest first."""
    return [board(records, chance, level) for level in levels(records)] or [board(records, chance)]


def board(
    records: Sequence[Record],
    chance: Mapping[TaskOnDatasetKey, float] = MappingProxyType({}),
    level: Level | None = None,
) -> Board:
    """The ranking of the encoders of a store. Of two records of one cell the later one counts.

    Args:
        chance: the score of a constant answer, by `benchmark_key`.
        level: the norm and eps to rank at; by default the largest.
    """
    level = level or next(iter(levels(records)), None)
    chosen = [r for r in records if not r.is_transfer and (r.is_clean or at(level, r.attack))]
    chosen.sort(key=lambda r: (r.provenance.started, r.fingerprint))
    benchmarks = _benchmarks(chosen, chance)
    cells = {(_row_key(r), benchmark_key(r), _column_key(r)): r for r in chosen}
    first = {_row_key(r): r for r in chosen}
    facts = [
        {
            "weights": r.encoder_digest[:8],
            "precision": r.precision,
            "recipe": _recipe(r),
            "heads": head_text(r) or "linear",
            "attacked at": f"{r.attack_at} size",
        }
        for r in first.values()
    ]
    endings = distinctions([r.encoder for r in first.values()], facts)
    rows = []
    for (key, record), ending in zip(first.items(), endings, strict=True):
        lines = [[cells.get((key, b, c.key)) for c in benchmark.columns] for b, benchmark in benchmarks.items()]
        rows.append(_row(record.encoder + ending, list(benchmarks.values()), lines))
    names = {key: row.encoder for key, row in zip(first, rows, strict=True)}
    best = _best(rows, list(benchmarks.values()))
    rows = [_measured(row, best, list(benchmarks.values())) for row in rows]
    positions = {key: k for k, key in enumerate(benchmarks)}
    return Board(level, list(benchmarks.values()), _ranked(rows), names, positions, best)


def levels(records: Sequence[Record]) -> list[Level]:
    """Norm and eps of task-specific attacks, or of any attack: the largest first, Linf before other norms."""
    attacked = [r for r in records if r.is_in_ball]
    specific = [r for r in attacked if r.is_task_specific]
    found = {Level(r.attack.norm, r.attack.eps) for r in specific or attacked}
    return sorted(found, key=level_order, reverse=True)


def at(level: Level | None, attack: AttackSpec) -> bool:
    """Whether an attack has this norm and eps."""
    return level is not None and (attack.norm, attack.eps) == level


def _recipe(record: Record) -> str:
    return str(record.head.recipe.get("recipe", ""))


def _row_key(record: Record) -> tuple[Hashable, ...]:
    own = (record.encoder, record.encoder_digest, record.precision, _recipe(record), head_text(record))
    # The same eps on the pixels as stored is another threat.
    return (*own, record.attack_at)


def benchmark_key(record: Record) -> TaskOnDatasetKey:
    """What the records of one benchmark share: the task and the images."""
    # Each encoder gets the images at the size it prefers, so the size is not part of the key.
    return (record.task, record.dataset, record.content_digest, record.split, record.image_ids_digest)


def _column_key(record: Record) -> AttackKey:
    # The settings of an attack do not matter at eps 0.
    return AttackKey(CLEAN, record.target_task, "nothing") if record.is_clean else record.attack_key


def _benchmarks(
    records: Sequence[Record], chance: Mapping[TaskOnDatasetKey, float]
) -> dict[TaskOnDatasetKey, TaskOnDataset]:
    grouped: dict[tuple[Hashable, ...], list[Record]] = {}
    for record in records:
        grouped.setdefault(benchmark_key(record), []).append(record)
    ordered = {key: grouped[key] for key in sorted(grouped, key=lambda key: [str(part) for part in key])}
    first = [some[0] for some in ordered.values()]
    facts = [{"images": str(r.n), "choice": r.image_ids_digest[:8], "content": r.content_digest[:8]} for r in first]
    endings = distinctions([(r.task, r.images_of) for r in first], facts)
    return {
        key: TaskOnDataset(
            r.task,
            r.images_of + ending,
            r.metric,
            r.unit,
            r.higher_is_better,
            _columns(some),
            chance.get(key, r.chance),
        )
        for (key, some), r, ending in zip(ordered.items(), first, endings, strict=True)
    }


def _columns(records: Sequence[Record]) -> list[Column]:
    task = records[0].task
    keys = sorted({_column_key(r) for r in records}, key=lambda key: attack_order(key, task))
    full = attack_labels(keys, task)
    # All attacks of a board have one eps: labels leave it out where they stay unique without it.
    short = [label.replace(f" {eps_text(key.attack)}", "", 1) for label, key in zip(full, keys, strict=True)]
    labels = short if len(set(short)) == len(short) else full
    return [Column(key, label) for key, label in zip(keys, labels, strict=True)]


def _row(encoder: str, benchmarks: Sequence[TaskOnDataset], cells: list[list[Record | None]]) -> BoardRow:
    found = [_strongest(benchmark, line) for benchmark, line in zip(benchmarks, cells, strict=True)]
    missing = [m for benchmark, line in zip(benchmarks, cells, strict=True) for m in _missing(benchmark, line)]
    pairs = list(zip(benchmarks, found, strict=True))
    lacking = missing or [f"{b.task} on {b.dataset}: {why}" for b, k in pairs if (why := _unknown(b, k))]
    guesses = [
        f"{benchmark.task} on {benchmark.dataset}"
        for benchmark, line in zip(benchmarks, cells, strict=True)
        if any(r and r.is_clean and benchmark.is_guess(r) for r in line)
    ]
    return BoardRow(encoder, cells, found, None, None, lacking, guesses)


def _unknown(benchmark: TaskOnDataset, found: Strongest | None) -> str:
    """Why no share of the clean score is known; empty where it is, or where the clean score is a guess."""
    if found is None:
        return "a clean and an attacked score"
    return "the level of chance" if math.isnan(benchmark.floor) else ""


def _missing(benchmark: TaskOnDataset, line: Sequence[Record | None]) -> list[str]:
    return [
        f"{benchmark.task} on {benchmark.dataset}: {column.label}"
        for column, record in zip(benchmark.columns, line, strict=True)
        if record is None and (column.key.target_task or column.key.is_clean)
    ]


def _strongest(benchmark: TaskOnDataset, line: Sequence[Record | None]) -> Strongest | None:
    pairs = list(zip(benchmark.columns, line, strict=True))
    clean = next((r for _, r in pairs if r and r.is_clean), None)
    own = [(c.label, r) for c, r in pairs if r and c.key.target_task and math.isfinite(r.headline.value)]
    if clean is None or not own or not math.isfinite(clean.headline.value):
        return None
    sign = 1 if benchmark.higher_is_better else -1
    label, worst = min(own, key=lambda pair: sign * pair[1].headline.value)
    return Strongest(label, clean, worst)


def _best(rows: Sequence[BoardRow], benchmarks: Sequence[TaskOnDataset]) -> list[Interval | None]:
    """The best clean scores: those of complete rows where there are any."""
    compared = [row for row in rows if not row.missing] or rows
    return [_best_clean(benchmark, [row.benchmarks[k] for row in compared]) for k, benchmark in enumerate(benchmarks)]


def _best_clean(benchmark: TaskOnDataset, found: Sequence[Strongest | None]) -> Interval | None:
    sign = 1 if benchmark.higher_is_better else -1
    clean = [k.clean.headline for k in found if k and not benchmark.is_guess(k.clean)]
    return max(clean, key=lambda score: sign * score.value, default=None)


def _measured(row: BoardRow, best: Sequence[Interval | None], benchmarks: Sequence[TaskOnDataset]) -> BoardRow:
    """A row with the share of the best clean score that it reaches, for each benchmark and on average."""
    found = [
        k and k._replace(share=benchmark.kept(clean, k.attacked.headline) if clean else None)
        for benchmark, clean, k in zip(benchmarks, best, row.benchmarks, strict=True)
    ]
    known = [k.share for k in found if k and k.share]
    return row._replace(benchmarks=found, robust=mean_kept(known) if known else None)


def _ranked(rows: list[BoardRow]) -> list[BoardRow]:
    whole = sorted(
        (row for row in rows if row.robust and not row.missing and not row.is_blind),
        key=lambda row: (-(row.robust.value if row.robust else 0), row.encoder),
    )
    spans = ranks([row.robust for row in whole if row.robust])
    ranked = [row._replace(ranks=span) for row, span in zip(whole, spans, strict=True)]
    return [*ranked, *sorted((row for row in rows if row not in whole), key=lambda row: row.encoder)]
