"""What a run shows: the plan first, then live progress, or plain lines where there is no terminal."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from robustprobe.core.eps import default_eps
from robustprobe.core.spec import format_eps
from robustprobe.evaluation.plan import Plan
from robustprobe.evaluation.run import RunProgress


def show_plan(console: Console, plan: Plan) -> None:
    """Cells, images and estimated time, before any work."""
    table = Table(show_edge=False, pad_edge=False)
    for column in ("encoder", "dataset", "tasks", "images", "attacks left to make"):
        table.add_column(column, overflow="fold", no_wrap=column in ("encoder", "dataset"))
    for pair in plan.pairs:
        names = dict.fromkeys(job.levels[0].attack.label for job in pair.left)
        images = f"{len(pair.data)} of {size_text(pair.data.size)}"
        left = ", ".join(names) or "none: all done"
        table.add_row(pair.encoder.card.name, pair.data.name, ", ".join(pair.head_keys), images, left)
    console.print(table)
    suite, done = plan.suite, sum(cell.done for cell in plan.cells)
    own = [f"{c.name} at {eps_text(c.eps, suite.norm)}" for c in suite.attacks or () if c.eps]
    kept = f", {done} of them done already" if done else ""
    kept += f", {plan.kept_bytes / 2**20:,.0f} MiB of features kept meanwhile" if plan.kept_bytes else ""
    kept += (
        f", peak memory about {plan.peak_bytes / 2**30:.1f} GiB" if plan.peak_bytes and done < len(plan.cells) else ""
    )
    spent = f"about {duration(plan.seconds)} on {plan.device}" if done < len(plan.cells) else "nothing left to do"
    steps = f"{suite.steps} steps" if suite.steps else "each attack's own steps"
    console.print("; ".join([f"{suite.norm} {sizes_text(plan)}, {steps}, seed {suite.seed}", *own]))
    for note in dict.fromkeys(
        f"{p.encoder.card.name}: {p.encoder.card.notes}" for p in plan.pairs if p.encoder.card.notes
    ):
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    for warning in plan.warnings:
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)
    console.print(
        f"plan: {len(plan.cells)} cells{kept}; {spent}. Ctrl-C is safe: the same command continues.", soft_wrap=True
    )


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
    """A bar that follows the current stage; without a terminal, a line when a stage ends."""

    def __init__(self, console: Console, plan: Plan) -> None:
        self.console, self.start = console, time.monotonic()
        self.stages = sum(len(b.left) + 1 for b in plan.pairs if b.left)
        self.ended = 0
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bars = Bars(*columns, console=console, disable=not console.is_terminal, transient=True)
        self.whole = self.bars.add_task("all stages", total=self.stages)
        self.current = self.bars.add_task("", total=None)

    def __enter__(self) -> "RunDisplay":
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def say(self, text: str) -> None:
        """Print a line about something that happened during the run."""
        self.console.print(text, markup=False, soft_wrap=True)

    def update(self, progress: RunProgress) -> None:
        """Show how far a stage is."""
        self.bars.update(self.current, description=progress.label, completed=progress.completed, total=progress.total)
        if not progress.finished:
            return
        self.ended += 1
        self.bars.update(self.whole, completed=self.ended)
        if not self.console.is_terminal:
            spent = time.monotonic() - self.start
            self.console.print(
                f"[{self.ended}/{self.stages}] {progress.label}, {spent:.0f} s", markup=False, soft_wrap=True
            )
