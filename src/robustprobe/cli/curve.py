"""`robustprobe curve`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from robustprobe.cli._console import new_console
from robustprobe.cli.run import _suite
from robustprobe.core.suites import find_suite

if TYPE_CHECKING:
    from robustprobe.evaluation.checkpoints import EpochTable as Tables


def curve(
    folder: Path,
    /,
    *,
    out: Path | None = None,
    suite: str | None = None,
    dataset: list[str] | None = None,
    attack: list[str] | None = None,
    eps: Annotated[list[str] | None, Parameter(allow_leading_hyphen=True)] = None,
    split: Literal["test", "val"] | None = None,
    limit: int | None = None,
    steps: int | None = None,
    train_limit: int | None = None,
    sanity_images: int | None = None,
    teacher_heads: bool = False,
    plot: Annotated[Path | None, Parameter(alias="-o")] = None,
    precision: Literal["fp32", "bf16"] | None = None,
    data_root: Path = Path("data"),
    device: str = "auto",
) -> None:
    """Evaluate the checkpoints of a hardening run, as a table and a plot over epochs. Epoch 0 is the teacher.

    The same command again does only what is missing, also while the run goes on.

    Parameters
    ----------
    folder
        The folder `robustprobe harden --out` wrote.
    out
        Folder for results; by default curve in that folder.
    suite
        A YAML file or a suite's name; its encoders are replaced by the checkpoints.
    dataset
        Dataset to report on. Can be given several times.
    attack
        Attack to run; by default clean, noise, embed and each task's own. Can be given several times.
    eps
        Size of the perturbation, such as 8/255. Can be given several times.
    split
        test, or val: train images held out, on which heads are chosen too. Choose an epoch there, publish on test.
    limit
        Images of each dataset.
    steps
        Steps of each attack.
    train_limit
        Images that heads learn from.
    sanity_images
        Images on which each attack is checked.
    teacher_heads
        Also the numbers under heads that were fitted on the teacher and kept; these are not stored.
    plot
        PNG, SVG or PDF file; by default curve.png among the results.
    precision
        Precision of the attacked model; judged in fp32 always.
    data_root
        Folder that holds the datasets, each in a folder of its name.
    device
        auto, cpu or cuda.
    """
    console = new_console()
    console.print("[bold]robustprobe[/] curve: loading torch and checkpoints ...")
    from robustprobe.cli._display import Display, show_plan
    from robustprobe.core.device import find_device
    from robustprobe.evaluation import checkpoints as _curve
    from robustprobe.report.charts.plot import write_plot
    from robustprobe.results.store import Store

    epochs = _curve.checkpoint_names(folder)
    changes: dict[str, Any] = {"encoders": list(epochs), "attacks": attack, "eps": eps, "steps": steps}
    changes |= {"sanity_images": sanity_images, "precision": precision, "examples": 0}
    base = find_suite(suite) if suite else None
    chosen = _suite(base, changes, dataset, {"limit": limit, "split": split}, {"train_limit": train_limit})
    where = out or folder / "curve"
    plan = _curve.plan_curve(chosen, folder, where, data_root, find_device(device))
    show_plan(console, plan)
    with Display(console, plan) as display:
        failures = _curve.measure(plan, where, display.update)
    wanted = plan.fingerprints()
    found = _curve.points([r for r in Store(where).records() if r.fingerprint in wanted], epochs)
    _show(console, _curve.tables(found))
    picture = write_plot([where], "curve", plot or where / "curve.png")
    console.print(f"Results: {where}    Plot: {picture}", soft_wrap=True, markup=False)
    for failure in failures:
        print(f"robustprobe: failed: {failure.label}: {failure.reason}", file=sys.stderr)
    if teacher_heads:
        from robustprobe.evaluation.teacher_heads import kept_heads

        console.print("The teacher's heads kept:")
        _show(console, _curve.tables(kept_heads(plan.suite, folder, data_root, plan.device)))
    if failures:
        sys.exit(2)


def _show(console: Console, tables: "list[Tables]") -> None:
    for content in tables:
        table = Table(*content.columns, title=content.title, title_justify="left", show_edge=False, pad_edge=False)
        for row in content.rows:
            table.add_row(*row)
        console.print(table)
