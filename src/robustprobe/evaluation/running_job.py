"""An attack of a pair while it is being made: what there is of it so far, and what is missing."""

from robustprobe.core.errors import UserError
from robustprobe.core.fingerprints import fingerprint
from robustprobe.evaluation.cells import EncoderOnDataset, EpsLevel, Plan
from robustprobe.evaluation.collect import KeptImage, RowCollector
from robustprobe.evaluation.examples import example_places
from robustprobe.evaluation.executors import AttackTask
from robustprobe.evaluation.executors.work import Heads
from robustprobe.evaluation.partial_results import PartialResult, PartialResultFolder
from robustprobe.results.labels import eps_text
from robustprobe.results.store import Store
from robustprobe.tasks import load_task


class RunningJob:
    """A job, what there is of it so far, and how many of its images are missing."""

    def __init__(self, plan: Plan, store: Store, pair: EncoderOnDataset, number: int, heads: Heads) -> None:
        self.pair, self.heads, self.job, self.suite = pair, heads, pair.left[number], plan.suite
        data = pair.data
        self.seconds = 0.0
        self._told = ""
        shown, checked = (
            example_places(data.kept_ids, n, self.suite.seed)
            for n in (self.suite.examples, self.suite.checked_images(len(data)))
        )
        source = self.job.source
        # Images made on another encoder are shown where they are an attack on that encoder.
        self.shown, self.checked = (set(), set()) if source else (shown, checked)
        specs = tuple(level.attack for level in self.job.levels)
        self.task = AttackTask(
            pair.key,
            number,
            self.job.target_task,
            specs,
            frozenset(self.shown | self.checked),
            source.key if source else None,
        )
        self.collectors = [RowCollector(spec, self.checked) for spec in specs]
        self.folder = PartialResultFolder(store.folder, fingerprint([cell.fingerprint for cell in self.job.cells]))
        self.missing = dict.fromkeys(data.kept_ids)
        self.failed = False
        self.peaks: list[int] = []
        self.threads: set[int] = set()

    def take(self, shard: PartialResult) -> None:
        """Count a shard in."""
        for batch in shard.batches:
            for collector, judged in zip(self.collectors, batch, strict=True):
                collector.take(judged)
        for name in shard.ids:
            del self.missing[name]
        if shard.peak is not None:
            self.peaks.append(shard.peak)
        if shard.threads is not None:
            self.threads.add(shard.threads)
        if not self.missing and self.job.target_task:
            task = load_task(self.job.target_task, self.pair.data.spaces[self.job.target_task])
            for collector in self.collectors:
                collector.choose(task)

    @property
    def kept(self) -> tuple[list[KeptImage], ...]:
        """Images to check the attack on, an entry per eps: none where an earlier run did not keep them all."""
        whole = all(self.checked <= {one.position for one in collector.kept} for collector in self.collectors)
        return tuple(collector.kept if whole else [] for collector in self.collectors)

    def check_files(self) -> None:
        """Raises UserError where the files of the images are not those that the plan was made for."""
        if self.pair.data.digest() != self.pair.digest:
            raise UserError(
                f"files of {self.pair.data.name} changed while they were read; what was read last is not kept. "
                "Run the same command again."
            )

    def chance(self) -> dict[str, float | None]:
        """What the best constant answer scores on the images, by judging task."""
        labels, rows = self.pair.data.spaces, self.collectors[0]
        names = [cell.task for cell in self.job.levels[0].cells]
        return {name: load_task(name, labels[name]).chance(rows.columns(name)) for name in names}

    @property
    def label(self) -> str:
        return f"{self.pair.label}: {self.job.name}"

    def scores(self) -> str:
        """`top-1 0.360, mIoU 0.321`: at each eps what the heads measured that the attack was made for, or all heads."""
        pairs = zip(self.job.levels, self.collectors, strict=True)
        self._told = self._told or "; ".join(self._scores(level, collector) for level, collector in pairs)
        return self._told

    def _scores(self, level: EpsLevel, collector: RowCollector) -> str:
        wanted = [cell.task for cell in level.cells if self.job.target_task in ("", cell.task)]
        parts = []
        for name in wanted:
            task = load_task(name, self.pair.data.spaces[name])
            estimate = task.estimates(collector.columns(name))[task.metric]
            unit = "" if task.unit == "share" else f" {task.unit}"
            parts.append(f"{task.metric} {estimate.value:.3f}{unit}")
        several = len(self.job.levels) > 1
        at = f"{eps_text(level.attack)}: " if several else ""
        return at + ", ".join(parts)
