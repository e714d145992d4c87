"""`robustprobe run` and `robustprobe demo`."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from cyclopts import Parameter

from robustprobe.cli._console import new_console
from robustprobe.cli._groups import ATTACK, HEADS, OUTPUT, WHAT, WHERE
from robustprobe.core.errors import UserError, unknown_name
from robustprobe.core.registry import executors
from robustprobe.core.spec import ExecutorOptions, Suite, validated
from robustprobe.core.suites import find_suite, narrowed

# In the docstring of `run` it would be taken for the heading of a section.
EXAMPLES = Parameter(help="Images kept for the page, drawn at random.")


def demo(*, out: Path = Path("demo"), device: str = "auto") -> None:
    """Evaluate the bundled encoders on generated scenes: no download, no GPU, about four minutes.

    Parameters
    ----------
    out
        Folder for results and the page.
    device
        auto, cpu or cuda.
    """
    _run(find_suite("demo"), Path("data"), out, device)


def run(
    suite: str | None = None,
    /,
    *,
    encoder: Annotated[list[str] | None, WHAT] = None,
    dataset: Annotated[list[str] | None, WHAT] = None,
    task: Annotated[list[str] | None, WHAT] = None,
    attack: Annotated[list[str] | None, ATTACK] = None,
    eps: Annotated[list[str] | None, ATTACK, Parameter(allow_leading_hyphen=True)] = None,
    split: Annotated[Literal["test", "val"] | None, WHAT] = None,
    limit: Annotated[int | None, WHAT] = None,
    norm: Annotated[Literal["linf", "l2"] | None, ATTACK] = None,
    steps: Annotated[int | None, ATTACK] = None,
    restarts: Annotated[int | None, ATTACK] = None,
    sanity_images: Annotated[int | None, ATTACK] = None,
    train_limit: Annotated[int | None, HEADS] = None,
    recipe: Annotated[Literal["fast", "standard", "paper"] | None, HEADS] = None,
    layers: Annotated[Literal[1, 4] | None, HEADS] = None,
    pooling: Annotated[Literal["cls", "cls+patch"] | None, HEADS] = None,
    seed: Annotated[int | None, ATTACK] = None,
    batch_size: Annotated[int | None, WHERE] = None,
    examples: Annotated[int | None, OUTPUT, EXAMPLES] = None,
    extreme_examples: Annotated[int | None, OUTPUT] = None,
    precision: Annotated[Literal["fp32", "bf16"] | None, WHERE] = None,
    data_root: Annotated[Path, WHERE] = Path("data"),
    out: Annotated[Path, OUTPUT] = Path("results"),
    device: Annotated[str, WHERE] = "auto",
    arch: Annotated[str | None, WHAT] = None,
    only: Annotated[list[str] | None, WHAT] = None,
    dry_run: Annotated[bool, WHERE] = False,
    offline: Annotated[bool, WHERE] = False,
    executor: Annotated[str, WHERE] = "local",
    ray_address: Annotated[str | None, WHERE] = None,
    workers: Annotated[int, WHERE] = 0,
    shard_size: Annotated[int, WHERE] = 0,
) -> None:
    """Attack encoders and evaluate them on every task, as a suite file or these options say.

    The same command again does only what is missing. Options change the suite that is given.

    Parameters
    ----------
    suite
        A YAML file, or a name from `robustprobe list suites`.
    encoder
        Encoder to evaluate, such as bundled:photos or my.py:MyEncoder. Can be given several times.
    dataset
        Dataset to report on. Can be given several times.
    task
        Task to evaluate; by default every task that a dataset has labels for. Can be given several times.
    attack
        Attack to run, such as ensemble or apgd:dlr; by default clean, noise, embed and each task's own.
        Can be given several times.
    eps
        Size of the perturbation, such as 8/255. Can be given several times: larger ones start from what smaller ones
        found.
    split
        test, or val: train images held out, on which heads are chosen too. Make choices there, publish on test.
    norm
        linf, where every pixel value may move by eps, or l2.
    limit
        Images of each dataset; always the same ones for the same number.
    steps
        Steps of each attack; by default what the attack asks for.
    restarts
        Random starts of each attack; the worst result counts, per image.
    sanity_images
        Images on which each attack is run again, stronger, weaker and without gradients, as sanity checks.
    train_limit
        Images that heads are trained on.
    recipe
        How heads are fitted and images shown to them: fast (minutes on a CPU), standard (close to the linear
        evaluations of DINOv2 and DINOv3) or paper.
    layers
        How many of the last blocks heads read.
    pooling
        What a classification head reads.
    seed
        Seed of random starts and of the choice of examples.
    batch_size
        Images attacked at once: memory and speed, not the numbers (to rounding).
    extreme_examples
        Images kept beside the random ones: for each task so many of those that lost most, that only just failed and
        that kept most.
    precision
        Precision of the attacked model; judged in fp32 always.
    data_root
        Folder that holds the datasets, each in a folder of its name.
    out
        Folder for results.
    device
        auto, cpu or cuda.
    arch
        Architecture of checkpoints given as file:PATH: a timm name, or a short one such as dino_vitb16.
    only
        Keep only the suite's encoders, datasets or attacks that match, such as cifar10 or 'dinov2*'. Can be given
        several times.
    dry_run
        Show cells, images, time and disk, measured briefly on this machine, and stop.
    offline
        Open no connection: use weights of this machine only (see `robustprobe fetch`).
    executor
        local, or ray: on many processes and machines (docs/cluster.md).
    ray_address
        An existing Ray cluster, such as auto or HOST:PORT; by default Ray is started on this machine.
    workers
        Processes that work at once; 0: as many as there are cores, or GPUs.
    shard_size
        Images that are handed to a worker at once; 0: about a minute's work.
    """
    head = {"train_limit": train_limit, "recipe": recipe, "layers": layers, "pooling": pooling}
    changes: dict[str, Any] = {
        "encoders": encoder,
        "tasks": task,
        "attacks": attack,
        "eps": eps,
        "norm": norm,
        "seed": seed,
    }
    changes |= {"steps": steps, "restarts": restarts, "sanity_images": sanity_images}
    changes |= {
        "batch_size": batch_size,
        "examples": examples,
        "extreme_examples": extreme_examples,
        "precision": precision,
    }
    base = find_suite(suite) if suite else None
    spread = _spread(executor, ray_address or "", workers, shard_size)
    images = {"limit": limit, "split": split}
    chosen = narrowed(_suite(base, changes, dataset, images, head), only or [])
    _run(chosen, data_root, out, device, _Options(arch or "", bool(only), dry_run, offline, spread))


def _suite(
    base: Suite | None,
    changes: dict[str, Any],
    dataset: list[str] | None,
    images: dict[str, Any],
    head: dict[str, Any],
) -> Suite:
    limit = images["limit"]
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit} leaves no image; give a limit of 1 or more, or none for the whole split.")
    data: dict[str, Any] = base.model_dump() if base else {}
    data |= _given(changes)
    if dataset:
        data["datasets"] = [{"name": name} for name in dataset]
    data["datasets"] = [{**d, **_given(images)} for d in data.get("datasets", [])]
    data["head"] = {**data.get("head", {}), **_given(head)}
    for key in ("encoders", "datasets"):
        if not data.get(key):
            raise UserError(f"no {key} named; give a suite file, or --{key[:-1]} NAME (see `robustprobe list {key}`).")
    return validated(Suite, data, "the run")


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _spread(executor: str, address: str, workers: int, shard_size: int) -> ExecutorOptions:
    known = executors.names()
    if executor not in known:
        raise unknown_name("executor", executor, known)
    if address and executor != "ray":
        raise UserError(f"--ray-address {address} is for --executor ray; give both, or neither.")
    if workers and executor != "ray":
        raise UserError(f"--workers {workers} is for --executor ray; local is this process alone.")
    if workers < 0 or shard_size < 0:
        raise UserError(f"--workers {workers} and --shard-size {shard_size} must be 0 or more; 0 leaves the choice.")
    return ExecutorOptions(executor=executor, address=address, workers=workers, shard_size=shard_size)


class _Options(NamedTuple):
    """How a run is done."""

    arch: str = ""
    leave_out: bool = False
    dry_run: bool = False
    offline: bool = False
    spread: ExecutorOptions = ExecutorOptions()


_PLAIN = _Options()


def _run(suite: Suite, root: Path, out: Path, device: str, options: _Options = _PLAIN) -> None:
    console = new_console()
    console.print(f"[bold]robustprobe[/] {suite.name}: loading torch and encoders ...")
    from robustprobe.cli._display import Display, show_plan
    from robustprobe.core.device import find_device
    from robustprobe.encoders import go_offline, with_arch
    from robustprobe.evaluation.plan import make_plan
    from robustprobe.evaluation.run import execute
    from robustprobe.report.page.render import write_page
    from robustprobe.report.tables.results import print_rich
    from robustprobe.results.store import Store

    if options.offline:
        go_offline()
    if options.arch:
        named = tuple(with_arch(e, options.arch) if e.startswith("file:") else e for e in suite.encoders)
        suite = suite.model_copy(update={"encoders": named})
    store = Store(out) if options.dry_run else Store(out).prepare()
    plan = make_plan(suite, store, root, find_device(device), leave_out=options.leave_out)
    show_plan(console, plan)
    if options.dry_run:
        return
    with Display(console, plan) as display:
        failures = execute(plan, store, display.update, options.spread, display.say)
    wanted = plan.fingerprints()
    if finished := [r for r in store.records() if r.fingerprint in wanted]:
        print_rich(finished, transfer=False, console=console)
        page = write_page(out, out / "report.html")
        console.print(f"Results: {out}    Page: {page.resolve().as_uri()}", soft_wrap=True)
    for failure in failures:
        print(f"robustprobe: failed: {failure.label}: {failure.reason}", file=sys.stderr)
    if failures:
        print(f"robustprobe: {safe(out)}; the same command tries what failed again.", file=sys.stderr)
        sys.exit(1 if all(failure.mistake for failure in failures) else 2)


def safe(out: Path) -> str:
    """What an interruption or a failure leaves."""
    return f"nothing is lost: all finished cells and shards are in {out}"
