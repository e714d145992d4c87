"""What a run shows: the plan first, then live progress, or plain lines where there is no terminal."""

import time
from collections.abc import Callable, Iterable

from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.progress import MofNCompleteColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from robustprobe.cli._console import bars_of
from robustprobe.core.eps import default_eps
from robustprobe.core.sizes import AREA, SEVERITY, format_eps
from robustprobe.evaluation.cells import PairKey, Plan
from robustprobe.evaluation.run import RunProgress
from robustprobe.report.tables.blocks import CHECKS_PAGE

MOST_WIDTH = 10_000
SURE = 0.1
"""What was believed before weighs as much as this part of the stages, done."""
BUSY = 1.5
"""A clock that runs so many times longer than the computing is worth a word."""
OPEN_END = 0.95
"""The part of a stage that counts as done at most, where only its end is certain."""
MOST_HEADS = 0.5
"""A larger part of the time for heads is worth a hint."""
FIRST_LOOK = 400
"""Train images that suffice for a first look, as in the suite `quick`."""

Stage = tuple[PairKey, int | None]
"""A pair and the index of its job among those that were left; None for its heads."""


def show_plan(console: Console, plan: Plan, *, verbose: bool = True) -> None:
    """Cells, images and estimated time, before any work.

    Args:
        verbose: on a terminal, facts, notes and warnings in full instead of a line each.
    """
    _show_pairs(console, plan)
    suite = plan.suite
    own = [f"{c.name} at {eps_text(c.eps, suite.norm)}" for c in suite.attacks or () if c.eps]
    levels = [level.attack for pair in plan.pairs for job in pair.jobs for level in job.levels]
    severities = sorted({attack.eps for attack in levels if attack.norm == SEVERITY})
    areas = sorted({attack.eps for attack in levels if attack.norm == AREA})
    if areas:
        own.append(f"patches of area {eps_text(tuple(areas), AREA)}")
    if severities:
        own.append(f"corruptions at severity {eps_text(tuple(severities), SEVERITY)}")
    steps = f"{suite.steps} steps" if suite.steps else "each attack's own steps"
    console.print("; ".join([f"{suite.norm} {sizes_text(plan)}, {steps}, seed {suite.seed}", *own]))
    _show_remarks(console, plan, cut=console.is_terminal and not verbose)
    console.print(f"plan: {_cost_text(plan)}. Ctrl-C is safe: the same command continues.", soft_wrap=True)


def _show_remarks(console: Console, plan: Plan, *, cut: bool) -> None:
    """Facts about labels, notes and warnings; where they are `cut` to a line each, how to see the rest."""
    of_encoders = [f"{p.encoder.card.name}: {p.encoder.card.notes}" for p in plan.pairs if p.encoder.card.notes]
    notes = dict.fromkeys([*of_encoders, *(note for p in plan.pairs for note in p.heads.notes)])
    said = {"labels": plan.label_facts, "note": notes, "warning": plan.warnings}
    lines = [Text(f"{kind}: {text}") for kind, texts in said.items() for text in texts]
    for line in lines:
        console.print(line, no_wrap=True, overflow="ellipsis" if cut else "ignore", soft_wrap=not cut)
    pointers = ["-v shows these lines in full"] if cut and any(line.cell_len > console.width for line in lines) else []
    pointers += [f"warnings go along with the numbers: {CHECKS_PAGE}"] if plan.warnings else []
    if pointers:
        console.print(Text(f"({'; '.join(pointers)})"))


def _cost_text(plan: Plan) -> str:
    """Cells, and the memory and time that those take which are not done."""
    cells, done = len(plan.cells), sum(cell.done for cell in plan.cells)
    parts = [f"{cells} cells", f"{done} of them done already" if done else ""]
    parts.append(f"{plan.kept_bytes / 2**20:,.0f} MiB of features kept meanwhile" if plan.kept_bytes else "")
    parts.append(f"peak memory about {plan.peak_bytes / 2**30:.1f} GiB" if plan.peak_bytes and done < cells else "")
    unchecked = sum(cell.lacks_checks for cell in plan.cells)
    parts.append(f"{unchecked} of them to be checked on more images" if unchecked else "")
    spent = f"{time_text(plan)}{heads_text(plan)}{bounded_text(plan)}"
    spent = spent if done < cells else "nothing left to attack" if unchecked else "nothing left to do"
    return f"{', '.join(part for part in parts if part)}; {spent}"


def _show_pairs(console: Console, plan: Plan) -> None:
    """What is left of each encoder on each dataset: as a table, or in lines where that does not fit."""
    heads = ("encoder", "dataset", "tasks", "images", "attacks left to make")
    table = Table(*(Column(head, no_wrap=True) for head in heads), show_edge=False, pad_edge=False)
    rows = []
    for pair in plan.pairs:
        names = dict.fromkeys(job.levels[0].attack.label for job in pair.left)
        images = f"{len(pair.data)} of {size_text(pair.data.size)}"
        left = ", ".join(names) or "none: all done"
        rows.append((pair.encoder.card.name, pair.data.name, ", ".join(pair.head_keys), images, left))
    for row in rows:
        table.add_row(*map(Text, row))
    if Measurement.get(console, console.options.update(max_width=MOST_WIDTH), table).maximum <= console.width:
        console.print(table)
        return
    for encoder, dataset, tasks, images, left in rows:
        console.print(Text(f"{encoder} on {dataset}, {images}", style="bold"))
        console.print(Padding(Text(f"tasks: {tasks}"), (0, 0, 0, 2)))
        console.print(Padding(Text(f"attacks left to make: {left}"), (0, 0, 0, 2)))


def time_text(plan: Plan) -> str:
    """The time of computing, and that on the clock where other work makes it much longer."""
    if plan.load < BUSY:
        return f"about {duration(plan.seconds)} on {plan.device}"
    clock = f"about {duration(plan.clock_seconds)} at its present load"
    return f"the machine is busy: {duration(plan.seconds)} of computing on {plan.device}, {clock}"


def bounded_text(plan: Plan) -> str:
    """The part of the time that is an upper bound, as broken images leave the attack."""
    bounded = plan.bounded
    seconds = sum(bounded.values())
    if not plan.seconds or seconds < 0.01 * plan.seconds:
        return ""
    return f", {100 * seconds / plan.seconds:.0f} % of it at most (images leave {', '.join(bounded)} once broken)"


def heads_text(plan: Plan) -> str:
    """The part of the time in which heads are fitted, and how to make it shorter where it is most of it."""
    share = plan.head_seconds / plan.seconds if plan.seconds else 0.0
    if share < 0.01:
        return ""
    images = max((pair.heads.train_images for pair in plan.pairs if pair.left), default=0)
    text = f", {100 * share:.0f} % of it for fitting heads on {images:,} images"
    if share <= MOST_HEADS or images <= FIRST_LOOK:
        return text
    return f"{text} (a first look needs fewer: --train-limit {FIRST_LOOK})"


def eps_text(sizes: tuple[float, ...], norm: str) -> str:
    """Sizes of a perturbation, separated by commas."""
    return ", ".join(format_eps(eps, norm) for eps in sizes)


def sizes_text(plan: Plan) -> str:
    """Every eps of the suite; without one the usual eps, and of which images it is where that matters."""
    norm, given = plan.suite.norm, plan.suite.eps
    sizes = {pair.data.name: pair.data.typical_size for pair in plan.pairs}
    usual = {name: format_eps(default_eps(norm, size), norm) for name, size in sizes.items()}
    if given is not None:
        return eps_text(given, norm)
    if norm == "linf":
        return next(iter(usual.values()))
    told = (f"{text} ({name}, {sizes[name][0]} x {sizes[name][1]})" for name, text in usual.items())
    return f"{', '.join(told)}: usual for images of this size"


def size_text(size: tuple[int, int] | int) -> str:
    """Height and width in pixels, or the shorter side."""
    return f"shorter side {size}" if isinstance(size, int) else f"{size[0]} x {size[1]}"


def duration(seconds: float) -> str:
    """Seconds in rounded words."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class RunDisplay:
    """A line with its score when a stage ends, and on a terminal a bar that follows the current stage.

    The bar is shown in `with display.bars:`.
    """

    def __init__(self, console: Console, plan: Plan) -> None:
        self.console, self.clock = console, RemainingTime(plan)
        self.stages = sum(len(b.left) + 1 for b in plan.pairs if b.left)
        self.ended = 0
        self.told = ""
        self.bars = bars_of(console, MofNCompleteColumn(), TimeElapsedColumn(), shown=console.is_terminal)
        self.whole = self.bars.add_task("all stages", total=self.stages)
        self.current = self.bars.add_task("", total=None)

    def say(self, text: str) -> None:
        """Print a line about something that happened during the run."""
        self.console.print(text, soft_wrap=True)

    def update(self, progress: RunProgress) -> None:
        """Show how far a stage is, its score as soon as it is known, and the time that is left."""
        self.clock.update(progress)
        self.bars.update(self.current, description=progress.label, completed=progress.completed, total=progress.total)
        self.bars.update(self.whole, description=f"all stages, {self.clock.text}")
        scored = progress.scores and progress.label != self.told
        heads = progress.finished and progress.job is None
        if progress.finished:
            self.ended += 1
            self.bars.update(self.whole, completed=self.ended)
        if scored or heads:
            self.told = progress.label
            place = self.ended + (not progress.finished)
            score = f"  {progress.scores}" if progress.scores else ""
            self.say(f"[{place}/{self.stages}] {progress.label}{score}  ({self.clock.text})")


class RemainingTime:
    """Seconds a run has taken on the clock and those it will still take.

    What is left follows the plan's estimate, scaled by how long what is done took against its own: for heads and for
    each attack by itself, as each estimate is wrong in its own way (broken images leave some attacks), and where
    little of it is done, for the whole run. Before anything is done the scale is the load that the plan found.
    """

    def __init__(self, plan: Plan, now: Callable[[], float] = time.monotonic) -> None:
        self.now, self.load = now, plan.load
        self.start = self.last = now()
        self.planned: dict[Stage, float] = {}
        self.kinds: dict[Stage, str] = {}
        for pair in plan.pairs:
            if cost := plan.costs.get(pair.key):
                stages: list[tuple[int | None, str, float]] = [(None, "heads", cost.heads)]
                stages += [(n, j.name, s) for n, (j, s) in enumerate(zip(pair.left, cost.jobs, strict=True))]
                for number, kind, seconds in stages:
                    self.planned[pair.key, number], self.kinds[pair.key, number] = seconds, kind
        self.total = max(sum(self.planned.values()), 1e-9)
        self.done: dict[Stage, float] = {}
        self.spent: dict[Stage, float] = {}
        self.ended: set[Stage] = set()

    def update(self, progress: RunProgress) -> None:
        """Take in how far a stage is; the time since the last word belongs to it."""
        now = self.now()
        since, self.last = now - self.last, now
        if progress.pair is None or (progress.pair, progress.job) not in self.planned:
            return
        stage = progress.pair, progress.job
        self.spent[stage] = self.spent.get(stage, 0.0) + since
        if progress.finished:
            self.ended.add(stage)
        if progress.finished or progress.job is not None:
            share = 1.0 if progress.finished else progress.completed / max(1, progress.total)
            self.done[stage] = self.planned[stage] * share

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return sum(self._left_of(stage) for stage in self.planned if stage not in self.ended)

    def _left_of(self, stage: Stage) -> float:
        scale = self._scale(self.kinds[stage])
        planned, done = self.planned[stage], self.done.get(stage, 0.0)
        if stage[1] is None:
            # Stages of heads count their images anew for each task, and only their end is certain.
            done = min(OPEN_END * planned, self.spent.get(stage, 0.0) / scale)
        return max(0.0, planned - done) * scale

    def _scale(self, kind: str) -> float:
        """Seconds on the clock for each second planned."""
        whole = self._measured(self.planned, self.load)
        return self._measured([s for s in self.planned if self.kinds[s] == kind], whole)

    def _measured(self, stages: Iterable[Stage], before: float) -> float:
        """What was measured on stages, with a belief of before that weighs as much as `SURE` of them."""
        known = [stage for stage in stages if stage in self.done]
        done, spent = sum(self.done[stage] for stage in known), sum(self.spent[stage] for stage in known)
        weight = SURE * sum(self.planned[stage] for stage in stages)
        return (spent + weight * before) / (done + weight) if done + weight else before

    @property
    def text(self) -> str:
        """`12 s, about 40 s left`."""
        spent = duration(self.now() - self.start)
        return f"{spent}, about {duration(self.left)} left" if self.left >= 1 else spent
