"""`robustprobe curve`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from robustprobe.cli._console import new_console, opening
from robustprobe.cli._options import (
    HEADS,
    OUTPUT,
    WHAT,
    AttackOptions,
    DataOptions,
    HeadOptions,
    MachineOptions,
    changed_suite,
    fewer_attacks,
)
from robustprobe.core.suites import find_suite

if TYPE_CHECKING:
    from robustprobe.evaluation.checkpoints import EpochTable


def curve(
    folder: Path,
    /,
    *,
    suite: Annotated[str | None, Parameter(group=WHAT)] = None,
    data: DataOptions = DataOptions(),
    attacks: AttackOptions = AttackOptions(),
    heads: HeadOptions = HeadOptions(),
    teacher_heads: Annotated[bool, Parameter(group=HEADS)] = False,
    machine: MachineOptions = MachineOptions(),
    out: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    plot: Annotated[Path | None, Parameter(group=OUTPUT, alias="-o")] = None,
) -> None:
    """Evaluate the checkpoints of a hardening run, as a table and a plot over epochs. Epoch 0 is the teacher.

    The same command again does only what is missing, also while the run goes on.

    Parameters
    ----------
    folder
        The folder that `robustprobe harden --out` wrote.
    suite
        A YAML file or a suite's name; its encoders are replaced by the checkpoints.
    teacher_heads
        Also score checkpoints with the heads that were fitted on the teacher. These numbers are not stored.
    out
        Folder for results; by default curve in that folder.
    plot
        PNG, SVG or PDF file; by default curve.png among the results.
    """
    console = new_console()
    console.print(opening("curve: loading torch and checkpoints ..."))
    from robustprobe.cli._display import RunDisplay, show_plan
    from robustprobe.core.device import find_device
    from robustprobe.evaluation import checkpoints
    from robustprobe.report.charts.plot import write_plot
    from robustprobe.results.store import Store

    epochs = checkpoints.checkpoint_names(folder)
    base = find_suite(suite) if suite else None
    chosen = changed_suite(base, data, attacks, heads, machine, encoders=list(epochs), examples=0)
    chosen = fewer_attacks(chosen, attacks)
    where = out or folder / "curve"
    plan = checkpoints.plan_curve(chosen, folder, where, machine.data_root, find_device(machine.device))
    show_plan(console, plan)
    display = RunDisplay(console, plan)
    with display.bars:
        failures = checkpoints.measure(plan, where, display.update)
    wanted = plan.fingerprints()
    found = checkpoints.points([r for r in Store(where).records() if r.fingerprint in wanted], epochs)
    _show(console, checkpoints.tables(found))
    picture = write_plot([where], "curve", plot or where / "curve.png")
    console.print(f"Results: {where}    Plot: {picture}", soft_wrap=True)
    for failure in failures:
        print(f"robustprobe: failed: {failure.label}: {failure.reason}", file=sys.stderr)
    if teacher_heads:
        from robustprobe.evaluation.teacher_heads import kept_heads

        console.print("The teacher's heads kept:")
        _show(console, checkpoints.tables(kept_heads(plan.suite, folder, machine.data_root, plan.device)))
    if failures:
        sys.exit(2)


def _show(console: Console, tables: "list[EpochTable]") -> None:
    for content in tables:
        table = Table(*content.columns, title=content.title, title_justify="left", show_edge=False, pad_edge=False)
        for row in content.rows:
            table.add_row(*row)
        console.print(table)
