"""The matrix of encoders by tasks and attacks at the largest eps: scores, places, and what is not there."""

import math
from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from robustprobe.core.spec import AttackSpec, format_eps
from robustprobe.metrics.intervals import Estimate
from robustprobe.report.tables.matrix import Column, attack_order
from robustprobe.report.tables.shares import Ranks, kept, mean_kept, ranks
from robustprobe.results.labels import attack_labels, distinctions, eps_text
from robustprobe.results.records import Interval, Record

TaskOnDatasetKey = tuple[Hashable, ...]
CLEAN = AttackSpec(name="clean", eps=0, steps=1)


class Level(NamedTuple):
    """The ball whose attacks a board compares."""

    norm: str
    eps: float


class TaskOnDataset(NamedTuple):
    """The columns of one task on one dataset; `chance` is what guessing scores, None where that is not known."""

    task: str
    dataset: str
    metric: str
    unit: str
    higher_is_better: bool
    columns: list[Column]
    chance: float | None

    def is_guess(self, clean: Record) -> bool:
        """Whether the interval of a clean score reaches the level of chance."""
        return self.chance is not None and self.higher_is_better and clean.headline.ci_low <= self.chance


class ScoreKept(NamedTuple):
    """What the attack that left least, of those made for the task, left; `share` is that of the own clean score, None
    where the clean score is nothing.
    """

    attack: str
    clean: Record
    attacked: Record
    share: Estimate | None


class BoardRow(NamedTuple):
    """One encoder: a list of cells and what was kept, for each bench.

    `robust` is the mean over benches of the attacked score relative to the best clean score of the encoders compared,
    and ranks; `kept` that relative to its own clean score. Places are None where a bench is incomplete, and `guesses`
    are benches on which its clean score may be a guess.
    """

    encoder: str
    cells: list[list[Record | None]]
    benchmarks: list[ScoreKept | None]
    kept: Estimate | None
    robust: Estimate | None
    ranks: Ranks | None
    missing: list[str]
    guesses: list[str]


class Board(NamedTuple):
    """Encoders whose every bench is complete, the most robust first; then the others, unranked."""

    level: Level | None
    benchmarks: list[TaskOnDataset]
    rows: list[BoardRow]
    names: Mapping[tuple[Hashable, ...], str]
    positions: Mapping[tuple[Hashable, ...], int]

    def encoder(self, record: Record) -> str | None:
        """The row that a record of any eps belongs to."""
        return self.names.get(_row_key(record))

    def benchmark(self, record: Record) -> int | None:
        """Which bench a record of any eps belongs to."""
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
        return f"eps {format_eps(self.level.eps, self.level.norm)} ({self.level.norm})" if self.level else "no eps"


def board(records: Sequence[Record], chance: Mapping[TaskOnDatasetKey, float] = MappingProxyType({})) -> Board:
    """The board of a store. Of two records of one cell the later one counts.

    Args:
        chance: what guessing scores, by the key of a bench.
    """
    level = largest_level(records)
    chosen = [r for r in records if r.target_task in ("", r.task) and (r.attack.eps == 0 or at(level, r.attack))]
    chosen.sort(key=lambda r: (r.provenance.started, r.fingerprint))
    benchmarks = _benchmarks(chosen, chance)
    cells = {(_row_key(r), benchmark_key(r), _column_key(r)): r for r in chosen}
    first = {_row_key(r): r for r in chosen}
    facts = [{"weights": r.encoder_digest[:8], "precision": r.precision, "recipe": _recipe(r)} for r in first.values()]
    endings = distinctions([r.encoder for r in first.values()], facts)
    rows = []
    for (key, record), ending in zip(first.items(), endings, strict=True):
        lines = [
            [cells.get((key, b, (c.attack, c.target_task))) for c in benchmark.columns]
            for b, benchmark in benchmarks.items()
        ]
        rows.append(_row(record.encoder + ending, list(benchmarks.values()), lines))
    names = {key: row.encoder for key, row in zip(first, rows, strict=True)}
    rows = _measured(rows, list(benchmarks.values()))
    return Board(level, list(benchmarks.values()), _placed(rows), names, {key: k for k, key in enumerate(benchmarks)})


def largest_level(records: Sequence[Record]) -> Level | None:
    """The largest eps of attacks made for a task, or of any attack; Linf goes before other norms."""
    attacks = [r.attack for r in records if r.attack.eps > 0]
    own = [r.attack for r in records if r.attack.eps > 0 and r.target_task == r.task]
    found = {Level(a.norm, a.eps) for a in own or attacks}
    return max(found, key=lambda level: (level.norm == "linf", level.norm, level.eps), default=None)


def at(level: Level | None, attack: AttackSpec) -> bool:
    """Whether an attack stays in this very ball."""
    return level is not None and (attack.norm, attack.eps) == level


def _recipe(record: Record) -> str:
    return str(record.head.recipe.get("recipe", ""))


def _row_key(record: Record) -> tuple[Hashable, ...]:
    return (record.encoder, record.encoder_digest, record.precision, _recipe(record))


def benchmark_key(record: Record) -> TaskOnDatasetKey:
    """What makes two records belong to one bench: the task and the images."""
    # Encoders are shown images at the size they prefer, so that the size is no part of what is compared.
    return (record.task, record.dataset, record.dataset_digest, record.split, record.image_ids_digest)


def _column_key(record: Record) -> tuple[AttackSpec, str]:
    # What an attack would have done is no part of a clean score.
    return (record.attack if record.attack.eps else CLEAN, record.target_task)


def _benchmarks(
    records: Sequence[Record], chance: Mapping[TaskOnDatasetKey, float]
) -> dict[TaskOnDatasetKey, TaskOnDataset]:
    grouped: dict[tuple[Hashable, ...], list[Record]] = {}
    for record in records:
        grouped.setdefault(benchmark_key(record), []).append(record)
    ordered = {key: grouped[key] for key in sorted(grouped, key=lambda key: [str(part) for part in key])}
    first = [some[0] for some in ordered.values()]
    facts = [{"images": str(r.n), "choice": r.image_ids_digest[:8], "content": r.dataset_digest[:8]} for r in first]
    endings = distinctions([(r.task, r.images_of) for r in first], facts)
    return {
        key: TaskOnDataset(
            r.task, r.images_of + ending, r.metric, r.unit, r.higher_is_better, _columns(some), chance.get(key)
        )
        for (key, some), r, ending in zip(ordered.items(), first, endings, strict=True)
    }


def _columns(records: Sequence[Record]) -> list[Column]:
    task = records[0].task
    keys = sorted({_column_key(r) for r in records}, key=lambda key: attack_order(key[0], key[1], task))
    full = attack_labels(keys, task)
    # All of a board are at one eps, so that labels need not say it where they differ without.
    short = [label.replace(f" {eps_text(attack)}", "", 1) for label, (attack, _) in zip(full, keys, strict=True)]
    labels = short if len(set(short)) == len(short) else full
    return [Column(*key, label) for key, label in zip(keys, labels, strict=True)]


def _row(encoder: str, benchmarks: Sequence[TaskOnDataset], cells: list[list[Record | None]]) -> BoardRow:
    shares = [_kept(benchmark, line) for benchmark, line in zip(benchmarks, cells, strict=True)]
    missing = [m for benchmark, line in zip(benchmarks, cells, strict=True) for m in _missing(benchmark, line)]
    known = [k.share for k in shares if k and k.share]
    lacking = missing or [
        f"{benchmark.task} on {benchmark.dataset}: a share of the clean score"
        for benchmark, share in zip(benchmarks, shares, strict=True)
        if share is None
    ]
    guesses = [
        f"{benchmark.task} on {benchmark.dataset}"
        for benchmark, share in zip(benchmarks, shares, strict=True)
        if share and benchmark.is_guess(share.clean)
    ]
    return BoardRow(encoder, cells, shares, mean_kept(known) if known else None, None, None, lacking, guesses)


def _missing(benchmark: TaskOnDataset, line: Sequence[Record | None]) -> list[str]:
    return [
        f"{benchmark.task} on {benchmark.dataset}: {column.label}"
        for column, record in zip(benchmark.columns, line, strict=True)
        if record is None and (column.target_task or column.attack.name == "clean")
    ]


def _kept(benchmark: TaskOnDataset, line: Sequence[Record | None]) -> ScoreKept | None:
    pairs = list(zip(benchmark.columns, line, strict=True))
    clean = next((r for c, r in pairs if r and c.attack.name == "clean"), None)
    own = [(c.label, r) for c, r in pairs if r and c.target_task and math.isfinite(r.headline.value)]
    if clean is None or not own or not math.isfinite(clean.headline.value):
        return None
    sign = 1 if benchmark.higher_is_better else -1
    label, worst = min(own, key=lambda pair: sign * pair[1].headline.value)
    return ScoreKept(label, clean, worst, kept(clean.headline, worst.headline, benchmark.higher_is_better))


def _measured(rows: list[BoardRow], benchmarks: Sequence[TaskOnDataset]) -> list[BoardRow]:
    """Rows with their attacked scores relative to the best clean ones, of complete rows where there are any."""
    compared = [row for row in rows if not row.missing] or rows
    best = [_best_clean(benchmark, [row.benchmarks[k] for row in compared]) for k, benchmark in enumerate(benchmarks)]
    return [row._replace(robust=_robust(row, best, benchmarks)) for row in rows]


def _best_clean(benchmark: TaskOnDataset, found: Sequence[ScoreKept | None]) -> Interval | None:
    sign = 1 if benchmark.higher_is_better else -1
    clean = [k.clean.headline for k in found if k]
    return max(clean, key=lambda score: sign * score.value, default=None)


def _robust(row: BoardRow, best: Sequence[Interval | None], benchmarks: Sequence[TaskOnDataset]) -> Estimate | None:
    shares = [
        kept(clean, k.attacked.headline, benchmark.higher_is_better)
        for benchmark, clean, k in zip(benchmarks, best, row.benchmarks, strict=True)
        if clean and k
    ]
    known = [share for share in shares if share]
    return mean_kept(known) if known else None


def _placed(rows: list[BoardRow]) -> list[BoardRow]:
    whole = sorted(
        (row for row in rows if row.robust and not row.missing),
        key=lambda row: (-(row.robust.value if row.robust else 0), row.encoder),
    )
    spans = ranks([row.robust for row in whole if row.robust])
    ranked = [row._replace(ranks=span) for row, span in zip(whole, spans, strict=True)]
    return [*ranked, *sorted((row for row in rows if row not in whole), key=lambda row: row.encoder)]
