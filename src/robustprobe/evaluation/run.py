"""What a plan lacks is attacked, judged and stored."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch

from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.eps import implausible_eps
from robustprobe.core.errors import UnwritableError, UserError
from robustprobe.core.fingerprints import code_digest, fingerprint
from robustprobe.core.sizes import SEVERITY
from robustprobe.core.spec import ExecutorOptions
from robustprobe.core.types import SanityCheck
from robustprobe.encoders import offline
from robustprobe.evaluation.cell_record import store_cell
from robustprobe.evaluation.cells import EncoderOnDataset, PairKey, Plan
from robustprobe.evaluation.check_completion import facts_of_some, finish_checks
from robustprobe.evaluation.example_selection import finish_examples
from robustprobe.evaluation.examples import ExampleContext, write_examples
from robustprobe.evaluation.executors import (
    AttackTask,
    CheckAttack,
    Executor,
    FitHeads,
    JudgeImages,
    LostError,
    Outcome,
    RunListener,
    RunSpec,
    WorkItem,
    load_executor,
)
from robustprobe.evaluation.executors.work import Findings, Heads, with_sources
from robustprobe.evaluation.partial_results import PartialResult
from robustprobe.evaluation.remade_images import ImageRemaker
from robustprobe.evaluation.running_job import RunningJob
from robustprobe.evaluation.sanity_checks import patch_check
from robustprobe.results.provenance import provenance
from robustprobe.results.records import CheckFact, Record
from robustprobe.results.store import Store
from robustprobe.tasks import load_task

# A shard takes about this long by the plan's estimate, and this many images.
SHARD_SECONDS = 60
FEWEST, MOST = 16, 2048


class RunProgress(NamedTuple):
    """What a run works on, and how many of its images are done.

    `finished` ends a stage. `scores` says in words what the stage measured, as soon as that is known. `job` is the
    number of the attack among those the pair lacks, None for heads; `pair` is None for what belongs to no stage.
    """

    label: str
    completed: int
    total: int
    finished: bool = False
    scores: str = ""
    pair: PairKey | None = None
    job: int | None = None


class Failure(NamedTuple):
    """A job that failed, and why; `mistake` where the user has to correct it."""

    label: str
    reason: str
    mistake: bool = False


LOCAL = ExecutorOptions()
Notify = Callable[[RunProgress], None]
Say = Callable[[str], None]
Stored = Callable[[Record], None]


def execute(
    plan: Plan,
    store: Store,
    notify: Notify,
    options: ExecutorOptions = LOCAL,
    say: Say = lambda text: None,
    stored: Stored = lambda record: None,
) -> list[Failure]:
    """Do what the plan lacks. Shards and cells are on disk as soon as they are finished.

    Args:
        say: told in a sentence what a user should know on the way.
        stored: given each record as soon as it is on disk; must not raise.

    Returns:
        jobs that failed; the rest is done all the same.

    Raises:
        UserError: the executor is not available.
    """
    return _Run(plan, store, notify, options, say, stored).execute()


class _Run:
    """One execution of a plan: the only one who writes."""

    def __init__(
        self, plan: Plan, store: Store, notify: Notify, options: ExecutorOptions, say: Say, stored: Stored
    ) -> None:
        self.plan, self.store, self.notify, self.options, self.say = plan, store, notify, options, say
        self.stored = stored
        self.failures: list[Failure] = []
        self.pairs = {pair.key: pair for pair in plan.pairs}
        self.running: dict[tuple[PairKey, int], RunningJob] = {}
        self.last = time.monotonic()

    def execute(self) -> list[Failure]:
        """Do it."""
        wanted = [key for key, pair in self.pairs.items() if pair.left]
        if wanted:
            self._measure(wanted)
        remaker = ImageRemaker(self.plan, self.store, self._run_spec(), self._remade, self.say)
        lost = finish_checks(self.plan, self.store, remaker)
        lost += finish_examples(self.plan, self.store, remaker) if self.plan.suite.examples else []
        self.failures += [_failure(label, error) for label, error in lost]
        return self.failures

    def _measure(self, wanted: Sequence[PairKey]) -> None:
        """Attack and judge what pairs lack."""
        self._compare_threads()
        watch = RunListener(self._progress, self.say)
        with load_executor(self._run_spec(), self.plan.pairs, self.options, watch) as executor:
            for key in wanted:
                executor.add(FitHeads(key))
            self.last = time.monotonic()
            try:
                for item, outcome in executor.results():
                    self._count_time(item)
                    self._take(executor, item, outcome)
            except LostError as error:
                self.failures.append(Failure("the rest of the run", str(error)))

    def _compare_threads(self) -> None:
        """Say where finished cells were measured with another number of threads."""
        own = self.options.threads or torch.get_num_threads()
        others = {count for cell in self.plan.cells for count in cell.threads} - {own}
        if others and self.plan.device.type == "cpu":
            counts = " and ".join(map(str, sorted(others)))
            self.say(
                f"warning: finished cells were measured with {counts} threads, this run uses {own}: convolutions round "
                f"otherwise, so small differences may be rounding. --threads {max(others)} keeps the number."
            )

    def _count_time(self, item: WorkItem) -> None:
        """Add the time since the last outcome to the job of this one, so that the times of all jobs add up."""
        now = time.monotonic()
        if not isinstance(item, FitHeads):
            self._running(item.task).seconds += now - self.last
        self.last = now

    def _run_spec(self) -> RunSpec:
        plan, suite = self.plan, self.plan.suite
        digests = {
            key: (pair.encoder.digest, pair.digest) for key, pair in ((p.key, p) for p in with_sources(self.plan.pairs))
        }
        key = fingerprint([suite.model_dump(mode="json"), str(plan.root), str(plan.device), list(digests.items())])
        return RunSpec(
            key,
            suite,
            plan.root.absolute(),
            str(plan.device),
            plan.encoders,
            digests,
            code_digest(),
            Path.cwd(),
            offline(),
        )

    def _take(self, executor: Executor, item: WorkItem, outcome: Outcome) -> None:
        if isinstance(outcome, Exception):
            self._failed(executor, item, outcome)
            return
        try:
            if isinstance(item, FitHeads):
                self._fitted(executor, item, cast(Heads, outcome))
            elif isinstance(item, JudgeImages):
                self._judged(executor, item, cast(PartialResult, outcome))
            else:
                self._checked(item, cast(Findings, outcome))
        except UnwritableError:
            raise
        except (UserError, RuntimeError, OSError) as error:
            self._failed(executor, item, error)

    def _failed(self, executor: Executor, item: WorkItem, error: Exception) -> None:
        if isinstance(item, FitHeads):
            label = f"{self.pairs[item.pair].label}: heads"
        else:
            running = self._running(item.task)
            if running.failed:
                return
            running.failed, label = True, running.label
            executor.drop(lambda other: isinstance(other, FitHeads) or self._running(other.task) is not running)
        self.failures.append(_failure(label, error))

    def _fitted(self, executor: Executor, item: FitHeads, heads: Heads) -> None:
        pair = self.pairs[item.pair]
        count = pair.heads.train_images
        self.notify(RunProgress(f"{pair.label}: heads", count, count, finished=True, pair=item.pair))
        for number in range(len(pair.left)):
            running = RunningJob(self.plan, self.store, pair, number, heads)
            self.running[item.pair, number] = running
            for shard in running.folder.load(pair.data.kept_ids):
                running.take(shard)
            self._spread(executor, running)

    def _spread(self, executor: Executor, running: RunningJob) -> None:
        names = list(running.missing)
        size = self.options.shard_size or self._shard_size(len(names), executor.slots)
        for number, start in enumerate(range(0, len(names), size)):
            executor.add(JudgeImages(running.task, tuple(names[start : start + size]), number))
        if not names:
            self._all_judged(executor, running)

    def _shard_size(self, images: int, slots: int) -> int:
        """About a minute's work, and something for every worker where there are several."""
        passes = sum(len(pair.data) * len(pair.left) for pair in self.plan.pairs)
        a_minute = round(SHARD_SECONDS * passes / max(self.plan.seconds, 1e-9))
        share = -(-images // slots) if slots > 1 else images
        return max(FEWEST, min(MOST, a_minute, share))

    def _judged(self, executor: Executor, item: JudgeImages, shard: PartialResult) -> None:
        running = self._running(item.task)
        running.check_files()
        with self.store.writing(running.folder.folder):
            running.folder.keep(shard)
        running.take(shard)
        total = len(running.pair.data)
        whole = not running.missing and not running.failed
        self._job_progress(running, total - len(running.missing), scores=running.scores() if whole else "")
        if whole:
            self._all_judged(executor, running)

    def _all_judged(self, executor: Executor, running: RunningJob) -> None:
        executor.add(CheckAttack(running.task, running.kept, running.chance()))

    def _checked(self, item: CheckAttack, found: Findings) -> None:
        running = self._running(item.task)
        job, pair = running.job, running.pair
        setting = ExampleContext(pair.encoder.card.name, pair.data, pair.heads.views)
        seconds, peak = running.seconds / len(job.levels), max(running.peaks, default=None)
        source = provenance(seconds, str(self.plan.device), peak, running.threads)
        kept = running.kept
        for number, (level, collector, extra) in enumerate(zip(job.levels, running.collectors, found, strict=True)):
            shown = [one for one in collector.everything_kept if one.position in running.shown]
            write_examples(self.store, level.group, setting, level.attack, job.target_task, shown)
            for cell in level.cells:
                of_all = [*_warnings(level.attack, pair, cell.task), *collector.trace()]
                if cell.task == job.target_task:
                    of_all += patch_check(
                        load_task(cell.task, pair.data.spaces[cell.task]), collector.columns(cell.task)
                    )
                checks = [CheckFact(**check._asdict()) for check in of_all]
                checks += facts_of_some(extra.get(cell.task, []), kept[number])
                self.stored(store_cell(self.store, running, number, cell, checks, source))
        running.folder.remove()
        del self.running[item.pair, item.task.number]
        self._job_progress(running, len(pair.data), finished=True, scores=running.scores())

    def _job_progress(self, running: RunningJob, done: int, finished: bool = False, scores: str = "") -> None:
        task, total = running.task, len(running.pair.data)
        self.notify(RunProgress(running.label, done, total, finished, scores, task.pair, task.number))

    def _running(self, task: AttackTask) -> RunningJob:
        return self.running[task.pair, task.number]

    def _remade(self, label: str, done: int, total: int) -> None:
        self.notify(RunProgress(label, done, total))

    def _progress(self, item: WorkItem, stage: str, done: int, total: int) -> None:
        if isinstance(item, FitHeads):
            label = f"{self.pairs[item.pair].label}: heads, {stage}"
            self.notify(RunProgress(label, done, total, pair=item.pair))
        elif isinstance(item, JudgeImages):
            running = self._running(item.task)
            self._job_progress(running, len(running.pair.data) - len(running.missing) + done)


def _warnings(attack: AttackSpec, pair: EncoderOnDataset, task: str) -> list[SanityCheck]:
    """The failed checks of an implausible size of an attack and of implausible labels; nothing where there are none."""
    text = implausible_eps(attack, pair.data.typical_size)
    made = SanityCheck("plausible eps", attack.eps, False, text)
    if attack.norm == SEVERITY:
        made = SanityCheck("plausible severity", attack.eps, False, text)
    found = [made] if text else []
    found += [SanityCheck("plausible heads", 0.0, False, text) for text in pair.heads.doubts]
    found += [SanityCheck("plausible texts", 0.0, False, text) for text in pair.heads.text_doubts(task)]
    return found + [SanityCheck("plausible labels", 0.0, False, d.text) for d in pair.labels.doubts if d.task == task]


def _failure(label: str, error: Exception) -> Failure:
    return Failure(label, str(error) or type(error).__name__, isinstance(error, UserError))
