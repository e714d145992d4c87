"""What a run shows while it works: scores as soon as they are known, and a time left that converges."""

import io
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from rich.console import Console

from robustprobe.cli._display import (
    FIRST_LOOK,
    RemainingTime,
    RunDisplay,
    bounded_text,
    duration,
    heads_text,
    show_plan,
    time_text,
)
from robustprobe.core.attack_spec import AttackChoice, AttackSpec
from robustprobe.core.device import Clocks, Elapsed, seconds_of
from robustprobe.core.head_spec import HeadSpec
from robustprobe.core.spec import DatasetSpec, Suite
from robustprobe.datasets import Dataset
from robustprobe.datasets._label_report import LabelDoubt
from robustprobe.evaluation.cells import PairCost, PairKey, Plan
from robustprobe.evaluation.plan import make_plan
from robustprobe.evaluation.run import RunProgress, execute
from robustprobe.results.store import Store

FIRST, SECOND = PairKey(0, 0), PairKey(1, 0)
COSTS = {FIRST: PairCost(10.0, (5.0, 20.0, 25.0), 0), SECOND: PairCost(10.0, (5.0, 25.0), 0)}


class FakePlan:
    """As much of a plan as the clock looks at; each pair lacks the same attacks in the same order."""

    costs = COSTS
    seconds = sum(cost.seconds for cost in COSTS.values())

    def __init__(self, load: float = 1.0) -> None:
        self.load = load
        self.pairs = [
            SimpleNamespace(key=key, left=[SimpleNamespace(name=f"attack {n}") for n in range(len(cost.jobs))])
            for key, cost in COSTS.items()
        ]


def stages() -> list[tuple[PairKey, int | None, float]]:
    found: list[tuple[PairKey, int | None, float]] = []
    for pair, cost in COSTS.items():
        found.append((pair, None, cost.heads))
        found += [(pair, job, seconds) for job, seconds in enumerate(cost.jobs)]
    return found


@pytest.mark.parametrize("factor", [0.25, 1.0, 6.0])
def test_the_time_left_converges_however_wrong_the_estimate_was(factor: float) -> None:
    now = [100.0]
    clock = RemainingTime(cast(Plan, FakePlan()), lambda: now[0])
    assert clock.left == pytest.approx(FakePlan.seconds)
    whole, errors = factor * FakePlan.seconds, []
    for pair, job, seconds in stages():
        now[0] += factor * seconds
        clock.update(RunProgress("", 1, 1, True, "", pair, job))
        errors.append(abs(clock.left - (whole - (now[0] - 100.0))))
    assert errors[len(errors) // 2] < 0.2 * whole
    assert errors[-2] <= 0.1 * whole
    assert clock.left == pytest.approx(0)


def test_a_busy_machine_is_believed_before_anything_is_measured_and_corrected_by_what_is() -> None:
    now = [0.0]
    clock = RemainingTime(cast(Plan, FakePlan(load=12.0)), lambda: now[0])
    assert clock.left == pytest.approx(12 * FakePlan.seconds)
    # The other work ends as the run begins: three stages later the clock knows.
    left = [clock.left]
    for pair, job, seconds in stages()[:3]:
        now[0] += seconds
        clock.update(RunProgress("", 1, 1, True, "", pair, job))
        left.append(clock.left)
    assert left == sorted(left, reverse=True)
    assert left[-1] < 3.5 * (FakePlan.seconds - 35.0)


def test_each_attack_is_corrected_by_itself() -> None:
    """Broken images leave the second attack, which takes a tenth of what it may; the rest is as planned."""
    now = [0.0]
    clock = RemainingTime(cast(Plan, FakePlan()), lambda: now[0])
    for pair, job, seconds in stages()[:4]:
        now[0] += seconds * (0.1 if job == 1 else 1.0)
        clock.update(RunProgress("", 1, 1, True, "", pair, job))
    # Left are heads of 10 s, an attack of 5 s, and the second attack: 25 s at most, which will take 2.5 s.
    assert 15.0 <= clock.left <= 22.0


def test_time_left_falls_while_heads_are_fitted() -> None:
    now = [0.0]
    clock = RemainingTime(cast(Plan, FakePlan()), lambda: now[0])
    seen = [clock.left]
    for done in range(1, 9):
        now[0] += 1.0
        clock.update(RunProgress("", done, 10, False, "", FIRST, None))
        seen.append(clock.left)
    assert seen == pytest.approx([FakePlan.seconds - spent for spent in range(9)])
    # Heads that take longer than planned are never said to be done.
    now[0] += 1000.0
    clock.update(RunProgress("", 9, 10, False, "", FIRST, None))
    assert clock.left > FakePlan.seconds - 10.0


def test_a_stage_counts_by_the_images_that_are_done() -> None:
    clock = RemainingTime(cast(Plan, FakePlan()), lambda: 0.0)
    clock.update(RunProgress("", 5, 10, False, "", FIRST, 2))
    assert sum(clock.done.values()) == pytest.approx(12.5)
    # The images of heads are counted again for each task.
    clock.update(RunProgress("", 9, 10, False, "", FIRST, None))
    assert sum(clock.done.values()) == pytest.approx(12.5)
    # What belongs to no stage, as extreme examples.
    clock.update(RunProgress("", 9, 10))
    assert sum(clock.done.values()) == pytest.approx(12.5)


@pytest.fixture
def small_plan(tmp_path: Any) -> tuple[Plan, Store]:
    suite = Suite(
        encoders=("bundled:scenes",),
        datasets=(DatasetSpec(name="scenes", limit=4),),
        tasks=("classification", "segmentation"),
        attacks=(AttackChoice(name="clean"), AttackChoice(name="pgd")),
        eps=(1 / 255, 8 / 255),
        steps=1,
        sanity_images=0,
        examples=0,
        head=HeadSpec(train_limit=17, epochs=1, learning_rates=(0.01,)),
    )
    store = Store(tmp_path).prepare()
    return make_plan(suite, store, tmp_path, torch.device("cpu")), store


def test_scores_are_shown_as_soon_as_they_are_known(small_plan: tuple[Plan, Store]) -> None:
    plan, store = small_plan
    console = Console(file=io.StringIO(), width=200)
    told: list[RunProgress] = []
    display = RunDisplay(console, plan)
    with console.capture() as capture, display.bars:

        def notify(progress: RunProgress) -> None:
            told.append(progress)
            display.update(progress)

        assert execute(plan, store, notify) == []
    lines = capture.get().splitlines()
    assert [line.split("]")[0] for line in lines] == ["[1/3", "[2/3", "[3/3"]
    values = {(r.attack.label, r.attack.eps): r.headline.value for r in store.records() if r.task == "classification"}
    assert f"top-1 {values['clean', 0.0]:.3f}, mIoU " in lines[1]
    assert f"1/255: top-1 {values['pgd', 1 / 255]:.3f}; 8/255: top-1 {values['pgd', 8 / 255]:.3f}" in lines[2]
    # The attack was made for classification alone.
    assert "mIoU" not in lines[2]
    first = next(p for p in told if p.scores)
    assert not first.finished


def test_times_of_jobs_add_up_to_the_time_of_the_run(small_plan: tuple[Plan, Store]) -> None:
    plan, store = small_plan
    start = time.monotonic()
    assert execute(plan, store, lambda progress: None) == []
    spent = time.monotonic() - start
    by_group = {r.group: r.provenance.seconds for r in store.records()}
    assert 0 < sum(by_group.values()) <= spent


class Busy:
    """Seconds of the clock on a machine that gives this process a share of its time."""

    def __init__(self, share: float) -> None:
        self.clocks = Clocks(wall=lambda: time.thread_time() / share)

    def __call__(self, call: Callable[[], object], device: torch.device) -> Elapsed:
        return seconds_of(call, device, self.clocks)


def test_a_busy_machine_changes_the_clock_and_not_the_computing(
    small_plan: tuple[Plan, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet, store = small_plan
    for place in ("evaluation.cost", "probing.probes"):
        monkeypatch.setattr(f"robustprobe.{place}.seconds_of", Busy(1 / 40))
    busy = make_plan(quiet.suite, store, quiet.root, torch.device("cpu"))
    assert busy.load > 15
    assert busy.clock_seconds == pytest.approx(busy.load * busy.seconds)
    # Measured twice on this machine: not the same, and far from forty times as much.
    assert busy.seconds < 10 * quiet.seconds
    text = time_text(busy)
    assert text.startswith("the machine is busy: ")
    assert f"{duration(busy.seconds)} of computing on cpu" in text
    assert f"about {duration(busy.clock_seconds)} at its present load" in text
    calm = busy._replace(costs={key: cost._replace(load=1.2) for key, cost in busy.costs.items()})
    assert time_text(calm) == f"about {duration(busy.seconds)} on cpu"


def test_attacks_that_broken_images_leave_are_said_at_most(small_plan: tuple[Plan, Store]) -> None:
    plan, store = small_plan
    assert bounded_text(plan) == ""
    attacks = tuple(AttackChoice(name=name) for name in ("pgd", "ensemble"))
    both = make_plan(plan.suite.model_copy(update={"attacks": attacks}), store, plan.root, torch.device("cpu"))
    assert list(both.bounded) == ["ensemble"]
    assert 0 < both.bounded["ensemble"] < both.seconds
    assert " % of it at most (images leave ensemble once broken)" in bounded_text(both)
    early = AttackChoice(name="pgd", early_exit=True)
    left = make_plan(plan.suite.model_copy(update={"attacks": (early,)}), store, plan.root, torch.device("cpu"))
    assert list(left.bounded) == [AttackSpec(name="pgd", early_exit=True).label]


def test_the_plan_says_what_fitting_heads_takes(small_plan: tuple[Plan, Store]) -> None:
    plan, _ = small_plan
    assert plan.seconds == pytest.approx(sum(cost.seconds for cost in plan.costs.values()))
    cost = plan.costs[FIRST]._replace(heads=30.0, jobs=(1.0, 9.0))
    mostly = plan._replace(costs={FIRST: cost}, seconds=cost.seconds)
    assert heads_text(mostly) == ", 75 % of it for fitting heads on 17 images"
    many = plan.pairs[0].heads
    large = many._replace(data=many.data._replace(train=cast(Dataset, LongData(many.data.train))))
    hinted = mostly._replace(pairs=(plan.pairs[0]._replace(heads=large),))
    assert f"--train-limit {FIRST_LOOK}" in heads_text(hinted)
    assert "--train-limit" not in heads_text(hinted._replace(costs={FIRST: cost._replace(heads=1.0)}, seconds=100.0))
    console = Console(file=io.StringIO(), width=200)
    with console.capture() as capture:
        show_plan(console, mostly)
    assert "75 % of it for fitting heads" in capture.get()


def test_the_plan_says_what_labels_hold(small_plan: tuple[Plan, Store]) -> None:
    plan, _ = small_plan
    twice = plan._replace(pairs=plan.pairs * 2)
    console = Console(file=io.StringIO(), width=40)
    with console.capture() as capture:
        show_plan(console, twice)
    shapes, parts = (line for line in capture.get().splitlines() if line.startswith("labels: "))
    assert shapes.startswith("labels: scenes: classification: train (17 images) 6 of 6 classes, most often ")
    assert parts.startswith("labels: scenes: segmentation: train (17 images) 8 of 8 classes, most often floor (")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_terminal_shows_each_remark_in_one_line_and_says_where_the_rest_is(
    small_plan: tuple[Plan, Store], width: int
) -> None:
    plan, _ = small_plan
    doubt = "half of the labels are missing because of " + "many reasons " * 20 + "at the end"
    pair = plan.pairs[0]
    labels = pair.labels._replace(doubts=(LabelDoubt("classification", doubt),))
    plan = plan._replace(pairs=(pair._replace(labels=labels),))

    def shown(terminal: bool, verbose: bool) -> list[str]:
        console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
        with console.capture() as capture:
            show_plan(console, plan, verbose=verbose)
        return capture.get().splitlines()

    lines = shown(True, False)
    (warning,) = (line for line in lines if line.startswith("warning: "))
    assert len(warning) <= width
    assert warning.endswith("…")
    said = " ".join(" ".join(lines).split())
    assert "-v shows these lines in full" in said
    assert "docs/concepts/sanity-checks.md" in said
    for whole in (shown(True, True), shown(False, False)):
        assert any(doubt in line for line in whole)
        assert "-v shows" not in " ".join(whole)


class LongData:
    """A dataset that says it has many images."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)

    def __len__(self) -> int:
        return 50_000
