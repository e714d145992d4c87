"""The result in words: what each encoder scores clean and attacked, and for which task it is weakest."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from robustprobe.metrics.intervals import Estimate
from robustprobe.report.tables.board import Board, BoardRow, Strongest, TaskOnDataset, at, levels
from robustprobe.report.tables.corruptions import corruption_summaries, corruption_tables
from robustprobe.report.tables.matrix import ends_text, failed_text, number_text, percent_text, task_tables, threat_text
from robustprobe.report.tables.shares import is_open, share_text, share_value
from robustprobe.results.labels import heads_text
from robustprobe.results.records import Interval, Record, doubts_of

COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Score(NamedTuple):
    """A number as the page prints it, with its unit and interval, and what its failed sanity checks mean."""

    value: str
    ends: str
    failed: str


class RobustShare(NamedTuple):
    """The share in large print: `3 %` with the word `robust`, or `chance` with `when clean`."""

    value: str
    words: str


class Finding(NamedTuple):
    """One encoder on one task of one dataset: its clean score and the one under the strongest task-specific attack.

    None: not measured. `robust` is the share of the best clean score above chance that is reached under attack. It is
    also None where the clean score is a `guess`: not above chance. `constant` says that a constant answer does better
    than the attacked encoder, and how well.
    """

    task: str
    dataset: str
    metric: str
    higher_is_better: bool
    clean: Score | None
    attacked: Score | None
    attack: str
    robust: float | None
    large_print: RobustShare | None
    guess: bool
    constant: str


class EncoderFindings(NamedTuple):
    """What the top of the page says about one encoder; `robust` is empty where it is not known."""

    encoder: str
    robust: str
    findings: list[Finding]
    weakest: str


class Headline(NamedTuple):
    """The top of the page."""

    title: str
    lead: str
    facts: list[tuple[str, str]]
    portraits: list[EncoderFindings]


def headline(records: list[Record], found_board: Board) -> Headline:
    """The result in words, from the records and their board."""
    found = _findings(records, found_board)
    rows = {row.encoder: row for row in found_board.rows}
    order = [*(name for name in rows if name in found), *sorted(name for name in found if name not in rows)]
    portraits = [
        EncoderFindings(e, _robust_text(rows.get(e), found_board), found[e], _weakest(found[e])) for e in order
    ]
    corrupted = _corruption_text(records)
    lead = " ".join(part for part in (f"{_summary(found_board)}{_size_text(found_board)}", corrupted) if part) or (
        "No task was measured both on clean images and under a task-specific attack: nothing to compare yet."
    )
    return Headline(_title(records, portraits), lead, _facts(records), portraits)


def _findings(records: list[Record], found_board: Board) -> dict[str, list[Finding]]:
    """What was found, by the encoder as the board names it; of two lines of one benchmark the later one counts."""
    found: dict[str, dict[tuple[str, str], Finding]] = {}
    for table in task_tables(records):
        for line in sorted(table.lines, key=lambda line: max(r.provenance.started for r in line.cells if r)):
            cells = [(column.label, cell) for column, cell in zip(table.columns, line.cells, strict=True) if cell]
            name = next((name for _, r in cells if (name := found_board.encoder(r))), line.encoder)
            place = next((k for _, r in cells if (k := found_board.benchmark(r)) is not None), None)
            dataset = line.dataset if place is None else found_board.benchmarks[place].dataset
            found.setdefault(name, {})[table.task, dataset] = _finding(dataset, cells, found_board)
    return {name: list(some.values()) for name, some in found.items()}


def _robust_text(row: BoardRow | None, found_board: Board) -> str:
    """`robust: 12 % [10, 14], mean over three tasks, at eps 8/255 (linf)`.

    Where a clean score is not above chance, that is said too.
    """
    guess = _guess_text(row) if row and row.guesses else ""
    if row is None or row.robust is None:
        return guess
    share = f"robust: {share_text(row.robust)}{_over(row, found_board)}, at {found_board.level_text}"
    return f"{share}; {guess}" if guess else share


def _guess_text(row: BoardRow) -> str:
    return f"not better than chance on clean images for {_listed(row.guesses)}"


def _over(row: BoardRow, found_board: Board) -> str:
    tasks = [b.task for b, found in zip(found_board.benchmarks, row.benchmarks, strict=True) if found and found.share]
    count = len(set(tasks))
    return f" for {tasks[0]}" if count == 1 else f", mean over {_count_text(count)} tasks"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1])] * (len(names) > 1) + [names[-1]])


def _summary(found_board: Board) -> str:
    """One sentence on the encoder, or on the first and the last of several; empty where nothing is known."""
    rows = found_board.ranked or [row for row in found_board.rows if row.robust or row.guesses][:1]
    if not rows:
        return ""
    first, last = rows[0], rows[-1]
    blind = [row for row in found_board.rows if row.is_blind and row is not first]
    ending = "".join(f" {row.encoder} is not ranked: at chance on clean images for every task." for row in blind)
    if first.robust is None:
        return f"{first.encoder} is {_robust_text(first, found_board)}.{ending}"
    guessing = [row for row in found_board.rows if row in (first, last) and row.guesses and not row.is_blind]
    ending = "".join(f" {row.encoder} is {_guess_text(row)}." for row in guessing) + ending
    ending = _reliance_text([first] if first is last else [first, last]) + ending
    under = f"clean score above chance under attack at {found_board.level_text}"
    if len(rows) == 1:
        whose = "its" if len(found_board.rows) == 1 else "the best"
        reached = f"{first.encoder} reaches {share_text(first.robust)} of {whose} {under}{_over(first, found_board)}"
        return f"{reached}{_weakest_text(first, found_board)}.{ending}"
    apart = "" if last.ranks and last.ranks.first > 1 else ", but their intervals overlap"
    most, least = (share_text(row.robust) if row.robust else "nothing" for row in (first, last))
    among = f"the highest of {_compared_text(rows)}; {last.encoder} has the lowest, {least}"
    if last.robust and last.robust.value == first.robust.value:
        among, apart = f"no more than any other of {_compared_text(rows)}", ""
    return f"{first.encoder} reaches {most} of the best {under}{_over(first, found_board)}: {among}{apart}.{ending}"


def _reliance_text(rows: Sequence[BoardRow]) -> str:
    """What speaks against the shares of rows: failed sanity checks, and intervals that hold almost any share."""
    texts = []
    for row in rows:
        found = [k for k in row.benchmarks if k and k.share]
        failed = dict.fromkeys(name for k in found for name in _failed_names(k))
        whose = f" The share of {row.encoder}" if len(rows) > 1 else " The share"
        wide = row.robust is not None and is_open(row.robust)
        said = [f"rests on numbers that failed sanity checks ({_listed(list(failed))})"] if failed else []
        said += ["has an interval that leaves it open (take more images)"] if wide else []
        texts += [f"{whose} {' and '.join(said)}."] if said else []
    return "".join(texts)


def _failed_names(benchmark: Strongest) -> list[str]:
    """Failed checks of its numbers that put the share in doubt."""
    nothing = benchmark.share is not None and benchmark.share.ci_high <= 0
    of_both = (check for record in (benchmark.clean, benchmark.attacked) for check in record.doubts)
    return [check.name for check in doubts_of(of_both, nothing)]


def _compared_text(rows: Sequence[BoardRow]) -> str:
    """`three encoders`, or `three settings of two encoders` where heads, recipe or precision are all that differ."""
    named = {(r.encoder, r.encoder_digest) for row in rows for line in row.cells for r in line if r}
    return _settings_text(len(rows), len(named))


def _settings_text(rows: int, encoders: int) -> str:
    counted = f"{_count_text(encoders)} encoder{'s' * (encoders != 1)}"
    return counted if rows <= encoders else f"{_count_text(rows)} settings of {counted}"


def _size_text(found_board: Board) -> str:
    """What the eps means in pixels, where the first sentence names it."""
    level = found_board.level
    if level is None or all(row.robust is None for row in found_board.rows):
        return ""
    if level.norm == "linf":
        return (
            f" Eps {level.eps * 255:.3g}/255 is a change of at most {level.eps * 255:.3g} of 255 grey levels per pixel."
        )
    if level.norm in ("l2", "l1"):
        return f" Eps is the {level.norm.upper()} norm of all changes to an image: at most {level.eps:.3g}."
    return ""


def _corruption_text(records: Sequence[Record]) -> str:
    """One sentence on the first and the last encoder under corruptions; empty where there are none."""
    found = corruption_summaries(corruption_tables(records))
    if not found:
        return ""
    first, last = found[0], found[-1]
    over = f", mean over {_count_text(first.tasks)} tasks" if first.tasks > 1 else ""
    kinds = "corruption" if first.corruptions == 1 else f"{first.corruptions} corruptions"
    text = (
        f"Under {kinds} at severity {first.severity:g}, {first.encoder} reaches {percent_text(first.reached)} of "
        f"{'its' if len(found) == 1 else 'the best'} clean score above chance{over}"
    )
    return f"{text}; {last.encoder} reaches least, {percent_text(last.reached)}." if len(found) > 1 else f"{text}."


def _weakest_text(row: BoardRow, found_board: Board) -> str:
    pairs = zip(found_board.benchmarks, row.benchmarks, strict=True)
    known = [(k.share.value, b.task) for b, k in pairs if k and k.share and not b.is_guess(k.clean)]
    weakest = _smallest(known)
    return f"; weakest: {_listed(weakest)}" if weakest else ""


def _smallest(shares: Sequence[tuple[float, str]]) -> list[str]:
    """The names of the smallest share as it is printed; empty where all are printed alike."""
    printed = [(percent_text(share), name) for share, name in sorted(shares)]
    least = [name for text, name in printed if text == printed[0][0]]
    return list(dict.fromkeys(least)) if len(least) < len(printed) else []


def _title(records: list[Record], portraits: list[EncoderFindings]) -> str:
    tasks = sorted({r.task for r in records})
    encoders = _encoders(records)
    who = f"is {portraits[0].encoder}" if len(portraits) == 1 else f"are {_settings_text(len(portraits), encoders)}"
    return f"How robust {who} for {tasks[0] if len(tasks) == 1 else f'{_count_text(len(tasks))} tasks'}?"


def _encoders(records: Sequence[Record]) -> int:
    return len({(r.encoder, r.encoder_digest) for r in records})


def _count_text(count: int) -> str:
    return COUNTS[count] if count < len(COUNTS) else str(count)


def _finding(dataset: str, cells: list[tuple[str, Record]], found_board: Board) -> Finding:
    first = cells[0][1]
    clean = next((r for _, r in cells if r.is_clean), None)
    own = [(label, r) for label, r in cells if r.is_task_specific and r.is_in_ball]
    label, attacked = _strongest(own) if own else ("", None)
    position = found_board.benchmark(clean) if clean else None
    benchmark = None if position is None else found_board.benchmarks[position]
    guess = clean is not None and benchmark is not None and benchmark.is_guess(clean)
    robust = None
    if attacked and position is not None and not guess:
        robust = _robust(attacked, found_board, position)
    chance = RobustShare("chance", "when clean") if guess else None
    return Finding(
        task=first.task,
        dataset=dataset,
        metric=first.metric,
        higher_is_better=first.higher_is_better,
        clean=_score(clean),
        attacked=_score(attacked),
        attack=label,
        robust=robust.value if robust else None,
        large_print=RobustShare(share_value(robust), "robust") if robust else chance,
        guess=guess,
        constant=_constant_text(attacked, benchmark) if attacked and benchmark else "",
    )


def _constant_text(attacked: Record, benchmark: TaskOnDataset) -> str:
    if not benchmark.is_worse_than_constant(attacked):
        return ""
    unit = "" if benchmark.unit == "share" else f" {benchmark.unit}"
    return f"worse than {attacked.chance_answer}: {number_text(benchmark.floor)}{unit}"


def _strongest(own: list[tuple[str, Record]]) -> tuple[str, Record]:
    """Of the attacks at the largest eps, of Linf where there are several norms, the one with the worst score."""
    level = levels([r for _, r in own])[0]
    at_level = [pair for pair in own if at(level, pair[1].attack)]
    known = [pair for pair in at_level if math.isfinite(pair[1].headline.value)] or at_level
    sign = 1 if own[0][1].higher_is_better else -1
    return min(known, key=lambda pair: sign * pair[1].headline.value)


def _robust(attacked: Record, found_board: Board, position: int) -> Estimate | None:
    best = found_board.best[position]
    return found_board.benchmarks[position].kept(best, attacked.headline) if best else None


def _score(record: Record | None) -> Score | None:
    if record is None:
        return None
    return Score(with_unit(record.headline, record.unit), ends_text(record.headline), failed_text(record))


def with_unit(interval: Interval, unit: str) -> str:
    """`0.430`, or `0.430 m` for what is no share."""
    return number_text(interval.value) + ("" if unit == "share" else f" {unit}")


def _weakest(findings: list[Finding]) -> str:
    """One sentence on the tasks with the smallest share, where there are others."""
    several = len({f.dataset for f in findings}) > 1
    known = [(f.robust, f"{f.task} on {f.dataset}" if several else f.task) for f in findings if f.robust is not None]
    weakest = _smallest(known)
    return f"Weakest: {_listed(weakest)}." if weakest else ""


def _facts(records: list[Record]) -> list[tuple[str, str]]:
    """What was measured, in six short entries, and the heads where they are not linear."""
    days = sorted({r.provenance.started[:10] for r in records})
    counts = sorted({r.n for r in records})
    threat = threat_text(records)
    return [
        ("Threat", "; ".join(threat) if threat else "none"),
        *([("Heads", heads.removeprefix("heads: "))] if (heads := heads_text(records)) else []),
        ("Images", f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} per dataset"),
        ("Encoders", str(_encoders(records))),
        ("Datasets", ", ".join(sorted({r.images_of for r in records}))),
        ("Tasks", str(len({r.task for r in records}))),
        ("Measured", days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"),
    ]
