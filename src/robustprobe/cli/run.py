"""`robustprobe run` and `robustprobe demo`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from robustprobe.cli._console import new_console, opening
from robustprobe.cli._gates import check_baseline, check_planned, judge_run, parse_rules
from robustprobe.cli._numbers import WholeNumber
from robustprobe.cli._options import (
    GATES,
    OUTPUT,
    WHAT,
    WHERE,
    AttackOptions,
    DataOptions,
    HeadOptions,
    MachineOptions,
    changed_suite,
    fewer_attacks,
    parse_time,
)
from robustprobe.core.errors import UserError, unknown_name
from robustprobe.core.registry import executors
from robustprobe.core.shared_names import split_name
from robustprobe.core.spec import ExecutorOptions, Suite
from robustprobe.core.suites import find_suite, narrowed
from robustprobe.trackers import GuardedTrackers

if TYPE_CHECKING:
    from robustprobe.evaluation.cells import Plan
    from robustprobe.evaluation.run import Failure

Verbose = Annotated[bool, Parameter(alias="-v", group=OUTPUT)]


@Parameter(name="*", group=WHAT)
@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """Encoders."""

    encoder: list[str] | None = None
    """Encoder to evaluate, such as bundled:photos, timm:NAME or my.py:MyEncoder; NAME=SPEC names it in tables. Can
    be given several times."""
    transfer_from: list[str] | None = None
    """Encoder on which adversarial images are made too, with its own heads, for the heads of every --encoder to judge.
    Can be given several times."""
    arch: str | None = None
    """Architecture of checkpoints given as file:PATH: a timm name, or a short one such as dino_vitb16."""


@Parameter(name="*", group=WHERE)
@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """How a run is spread over processes and machines, and whether it runs at all."""

    offline: bool = False
    """Open no connection; weights must be on this machine (see `robustprobe fetch`)."""
    max_time: str | None = None
    """Time that the run may take by its estimate, such as 30m, 2h or 1h30m. Fewer images are taken where all would take
    longer: the same for all encoders, and the plan says how many. A run that takes longer is not stopped."""
    dry_run: bool = False
    """Show cells, images, and the time and disk they need, measured briefly on this machine; then stop."""
    executor: str = "local"
    """local, or ray: on many processes and machines (docs/guides/cluster.md)."""
    ray_address: str | None = None
    """An existing Ray cluster, such as auto or HOST:PORT. By default Ray is started on this machine."""
    workers: WholeNumber = 0
    """Number of worker processes of Ray. 0: as many as there are GPUs, or as the cores suffice for with --threads."""
    threads: WholeNumber = 0
    """Threads of torch in each process on a CPU, the same for every executor. 0: as torch chooses here. Convolutions
    round otherwise with another number, so keep it when results are resumed, merged or compared."""
    shard_size: WholeNumber = 0
    """Images that a worker is given at once. 0: about a minute of work."""

    def spec(self) -> ExecutorOptions:
        """Raises UserError for options that do not fit each other."""
        known = executors.names()
        if self.executor not in known:
            raise unknown_name("executor", self.executor, known)
        if self.ray_address and self.executor != "ray":
            raise UserError(f"--ray-address {self.ray_address} is for --executor ray; give both, or neither.")
        if self.workers and self.executor != "ray":
            raise UserError(f"--workers {self.workers} is for --executor ray; local is this process alone.")
        if min(self.workers, self.shard_size, self.threads) < 0:
            raise UserError(
                f"--workers {self.workers}, --shard-size {self.shard_size} and --threads {self.threads} must be 0 or "
                "more; 0 leaves the choice."
            )
        return ExecutorOptions(
            executor=self.executor,
            address=self.ray_address or "",
            workers=self.workers,
            shard_size=self.shard_size,
            threads=self.threads,
        )


@Parameter(name="*", group=OUTPUT)
@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What is kept, and where."""

    out: Path = Path("results")
    """Folder for results and the page."""
    tracker: list[str] | None = None
    """Program that is told of each number as it comes: tensorboard, mlflow, wandb or my.py:MyTracker (see
    `robustprobe list trackers`). Can be given several times."""
    examples: WholeNumber | None = None
    """Example images per dataset that are kept for the page, drawn at random."""
    extreme_examples: WholeNumber | None = None
    """Example images beside the random ones. For each task so many of those whose score fell most, of those that just
    failed and of those that kept their score."""


@Parameter(name="*", group=GATES)
@dataclass(frozen=True, kw_only=True)
class GateOptions:
    """What numbers have to keep; exit code 3 where one does not."""

    fail_under: list[str] | None = None
    """Rule that a number has to keep, such as 'segmentation:ensemble:4/255>=0.20': TASK[@DATASET]:ATTACK[:EPS], then
    >=, <=, > or <, and a value. Can be given several times."""
    fail_on_regression: Path | None = None
    """Folder of a baseline's results. Fails where a number is worse than there, by a paired 95 % interval over images
    that excludes 0."""
    junit: Path | None = None
    """File for the outcomes as JUnit XML, which build servers show."""


def demo(*, out: Path | None = None, device: str = "auto", full: bool = False, verbose: Verbose = False) -> None:
    """Evaluate two bundled encoders on generated scenes: no download, no GPU, about a minute.

    Parameters
    ----------
    out
        Folder for results and the page. By default demo, and demo-full with --full.
    device
        auto, cpu or cuda.
    full
        Three encoders, more images and attacks, and examples of every kind: about four minutes.
    verbose
        Print every table and every finding of the sanity checks, and notes and warnings of the plan in full.
    """
    name = "demo-full" if full else "demo"
    _run(find_suite(name), out or Path(name), MachineOptions(device=device), brief=True, verbose=verbose)


def run(
    suite: str | None = None,
    /,
    *,
    encoders: EncoderOptions = EncoderOptions(),
    data: DataOptions = DataOptions(),
    only: Annotated[list[str] | None, Parameter(group=WHAT)] = None,
    attacks: AttackOptions = AttackOptions(),
    heads: HeadOptions = HeadOptions(),
    machine: MachineOptions = MachineOptions(),
    launch: LaunchOptions = LaunchOptions(),
    output: OutputOptions = OutputOptions(),
    gates: GateOptions = GateOptions(),
    verbose: Verbose = False,
) -> None:
    """Attack encoders and evaluate them on every task, as a suite file or these options say.

    The same command again does only what is missing. Options change the suite that is given.

    Parameters
    ----------
    suite
        A YAML file, or a name from `robustprobe list suites`.
    only
        Keep only the suite's encoders, datasets or attacks that match, such as cifar10 or 'dinov2*'. Can be given
        several times.
    verbose
        Print transfer between tasks, every finding of the sanity checks, and notes and warnings of the plan in full.
    """
    changes: dict[str, Any] = {"examples": output.examples, "extreme_examples": output.extreme_examples}
    changes["transfer_from"] = encoders.transfer_from
    base = find_suite(suite) if suite else None
    whole = changed_suite(base, data, attacks, heads, machine, encoders=encoders.encoder, **changes)
    chosen = fewer_attacks(narrowed(whole, only or []), attacks, bool(only))
    _run(
        chosen,
        output.out,
        machine,
        encoders.arch,
        launch,
        leave_out=bool(only),
        gates=gates,
        trackers=output.tracker or (),
        brief=False,
        verbose=verbose,
    )


def _run(
    suite: Suite,
    out: Path,
    machine: MachineOptions,
    arch: str | None = None,
    launch: LaunchOptions = LaunchOptions(),
    leave_out: bool = False,
    gates: GateOptions = GateOptions(),
    trackers: Sequence[str] = (),
    *,
    brief: bool,
    verbose: bool,
) -> None:
    spread, rules = launch.spec(), parse_rules(gates.fail_under)
    if gates.fail_on_regression is not None:
        check_baseline(gates.fail_on_regression, out)
    told = GuardedTrackers(trackers, out)
    console = new_console()
    console.print(opening(f"{suite.name}: loading torch and encoders ..."))
    from robustprobe.cli._display import RunDisplay, show_plan
    from robustprobe.cli._outcome import PAGE, show_outcome
    from robustprobe.core.device import find_device
    from robustprobe.encoders import go_offline
    from robustprobe.evaluation.plan import make_plan
    from robustprobe.evaluation.run import execute
    from robustprobe.evaluation.time_budget import plan_within
    from robustprobe.report.charts.pictures import pictures
    from robustprobe.results.store import Store
    from robustprobe.results.union import Found

    if launch.offline:
        go_offline()
    suite = _with_arch(suite, arch)
    with Store(out).kept_if_used(create=not launch.dry_run) as store:

        def planned(wanted: Suite) -> "Plan":
            return make_plan(wanted, store, machine.data_root, find_device(machine.device), leave_out=leave_out)

        plan, words = plan_within(suite, parse_time(launch.max_time), planned)
        check_planned(rules, plan)
        show_plan(console, plan, verbose=verbose)
        if words:
            console.print(f"--max-time {launch.max_time}: {words}", highlight=False, soft_wrap=True)
        if launch.dry_run:
            return
        display = RunDisplay(console, plan)
        wanted = plan.fingerprints()
        with told:
            with display.bars:
                told.start(suite.name, plan.suite.model_dump(mode="json"), display.say)
                for known in [r for r in store.records() if r.fingerprint in wanted] if trackers else ():
                    told.record(known)
                failures = execute(plan, store, display.update, spread, display.say, told.record)
            finished = [r for r in store.records() if r.fingerprint in wanted]
            show_outcome(console, [Found(r, store) for r in finished], out, brief=brief, verbose=verbose)
            for name, pixels in pictures(out) if told.trackers and finished else ():
                told.picture(name, pixels)
            told.file("page", out / PAGE)
    _end(failures, out)
    judge_run(rules, gates.fail_on_regression, store, finished, gates.junit)


def _with_arch(suite: Suite, arch: str | None) -> Suite:
    """The suite with an architecture for encoders from checkpoint files."""
    from robustprobe.encoders import with_arch

    if not arch:
        return suite
    both = {
        field: tuple(with_arch(e, arch) if split_name(e)[1].startswith("file:") else e for e in names)
        for field, names in (("encoders", suite.encoders), ("transfer_from", suite.transfer_from))
    }
    return suite.model_copy(update=both)


def _end(failures: "Sequence[Failure]", out: Path) -> None:
    """Print what failed, and exit where something did."""
    for failure in failures:
        print(f"robustprobe: failed: {failure.label}: {failure.reason}", file=sys.stderr)
    if failures:
        print(f"robustprobe: {safe(out)}; the same command tries what failed again.", file=sys.stderr)
        sys.exit(1 if all(failure.mistake for failure in failures) else 2)


def safe(out: Path) -> str:
    """What an interruption or a failure leaves."""
    return f"nothing is lost: all finished cells and shards are in {out}"
