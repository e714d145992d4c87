"""What is done in one process: heads fitted, shards attacked and judged, attacks checked.

Encoders, datasets and heads are loaded once for a process, not for every shard.
"""

import platform
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch

from robustprobe import probing
from robustprobe.core.device import PeakMemory, return_free_memory
from robustprobe.core.errors import UserError
from robustprobe.core.spec import AttackSpec, Suite, code_digest
from robustprobe.encoders import Encoder, go_offline, load_encoder
from robustprobe.evaluation.batch_invariant import batch_invariant_models
from robustprobe.evaluation.collect import BatchRows, KeptImage, checked_again, piece_of
from robustprobe.evaluation.evaluate import EvaluationSpec, evaluate
from robustprobe.evaluation.partial_results import PartialResult
from robustprobe.evaluation.plan import EncoderOnDataset, bench_batch, bench_of
from robustprobe.evaluation.sanity_checks import SanityCheck
from robustprobe.probing import Fitted
from robustprobe.tasks import Model

# Images between two times that free memory is given back.
TRIM_EVERY = 256
Notify = Callable[[str, int, int], None]
Heads = Mapping[str, Fitted]


class RunSpec(NamedTuple):
    """What a process must know to take part in a run, wherever it is.

    `encoders` are objects where the caller gave objects, else None: then they are loaded by their names. `digests` are
    those of the encoder and of the images of every bench, and `code` that of robustprobe, as the process that ordered
    the work sees them.
    """

    key: str
    suite: Suite
    root: Path
    device: str
    encoders: tuple[Encoder, ...] | None
    digests: tuple[tuple[str, str], ...]
    code: str
    folder: Path
    """The working folder: what `my.py:Class` and `imagefolder:PATH` are relative to."""
    offline: bool = False


class AttackTask(NamedTuple):
    """An attack at ascending eps against the model of one task or none, at one bench; `keep` are places of images
    that are to be shown, or to check the attack on.
    """

    bench: int
    number: int
    made_for: str
    attacks: tuple[AttackSpec, ...]
    keep: frozenset[int]


class FitHeads(NamedTuple):
    """The heads of a bench."""

    bench: int

    @property
    def rank(self) -> tuple[int, int, int]:
        """What comes first."""
        return self.bench, -1, 0


class JudgeImages(NamedTuple):
    """A shard: some images of a task, attacked and judged."""

    task: AttackTask
    ids: tuple[str, ...]
    number: int

    @property
    def bench(self) -> int:
        return self.task.bench

    @property
    def rank(self) -> tuple[int, int, int]:
        """What comes first."""
        return self.bench, self.task.number, self.number


class CheckAttack(NamedTuple):
    """The attacks of a task, run again on a few images each."""

    task: AttackTask
    kept: tuple[Sequence[KeptImage], ...]

    @property
    def bench(self) -> int:
        return self.task.bench

    @property
    def rank(self) -> tuple[int, int, int]:
        """What comes first."""
        return self.bench, self.task.number, -1


WorkItem = FitHeads | JudgeImages | CheckAttack
Findings = list[dict[str, list[SanityCheck]]]


class WorkerState:
    """The encoders, datasets and heads of one process, and the work done with them."""

    def __init__(self, order: RunSpec, benches: Sequence[EncoderOnDataset] = ()) -> None:
        self.order, self.device = order, torch.device(order.device)
        self.benches = dict(enumerate(benches))
        self.models: dict[int, tuple[Encoder, Mapping[str, Model]]] = {}
        self.works: dict[tuple[int, int], EvaluationSpec] = {}
        self.places: dict[int, dict[str, int]] = {}
        self.most: dict[int, int] = {}
        if order.offline:
            go_offline()

    @cached_property
    def encoders(self) -> dict[int, Encoder]:
        """Encoders that are loaded."""
        return dict(enumerate(self.order.encoders or ()))

    def bench(self, number: int) -> EncoderOnDataset:
        """An encoder at a dataset.

        Raises:
            UserError: they are not here, or not those that the run is about.
        """
        if number not in self.benches:
            suite = self.order.suite
            which, place = divmod(number, len(suite.datasets))
            if which not in self.encoders:
                self.encoders[which] = load_encoder(suite.encoders[which])
            encoder = self.encoders[which].freeze().to(self.device)
            bench = bench_of(suite, encoder, place, self.order.root)
            wanted = (*self.order.digests[number], self.order.code)
            found = (encoder.digest, bench.digest, code_digest())
            names = f"weights of {encoder.card.name}", f"files of {bench.data.name}", "robustprobe"
            for what, here, there in zip(names, found, wanted, strict=True):
                if here != there:
                    raise UserError(
                        f"{what} on {platform.node()}: not the same as on the machine that started the run. "
                        "See `robustprobe doctor --cluster`."
                    )
            self.benches[number] = bench
        return self.benches[number]

    def fit(self, unit: FitHeads, notify: Notify) -> Heads:
        """Heads of a bench, from the cache where they were fitted before; on the CPU."""
        bench = self.bench(unit.bench)
        probes = probing.fit_probes(
            bench.encoder,
            bench.train,
            list(bench.head_keys),
            spec=self.order.suite.head,
            device=self.device,
            notify=notify,
        )
        return {task: fitted for task, (_, fitted) in probes.items()}

    def judge(self, unit: JudgeImages, heads: Heads, notify: Notify, say: Callable[[str], None]) -> PartialResult:
        """Attack and judge a shard; with smaller batches where memory does not suffice."""
        work, places = self._work(unit.task, heads), self._places(unit.bench)
        left, batches = [places[name] for name in unit.ids], list[tuple[BatchRows, ...]]()
        peak = PeakMemory(self.device)
        while left:
            try:
                for judgements in evaluate(work, left):
                    batches.append(tuple(piece_of(judged, unit.task.keep) for judged in judgements))
                    done = len(batches[-1][0].ids)
                    left = left[done:]
                    notify("", len(unit.ids) - len(left), len(unit.ids))
                    if (len(left) + done) // TRIM_EVERY != len(left) // TRIM_EVERY:
                        return_free_memory()
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                work = self._smaller(unit.task, work, say)
        return PartialResult(unit.ids, batches, peak.bytes)

    def check(self, unit: CheckAttack, heads: Heads) -> Findings:
        """Run attacks again on the images that were kept for that, by eps and judging task."""
        work = self._work(unit.task, heads)
        pairs = zip(unit.task.attacks, unit.kept, strict=True)
        return [checked_again(work, spec, kept) for spec, kept in pairs]

    def _smaller(self, task: AttackTask, work: EvaluationSpec, say: Callable[[str], None]) -> EvaluationSpec:
        """The work with half the batch, from now on."""
        return_free_memory()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        half = work.batch_size // 2
        if not half:
            raise RuntimeError(f"out of memory on {self.device} with one image at once; take a machine with more.")
        say(f"out of memory with {work.batch_size} images at once; it goes on with {half}, and the same images count")
        self.most[task.bench] = half
        self.works = {key: w for key, w in self.works.items() if key[0] != task.bench}
        self.works[task.bench, task.number] = work._replace(batch_size=half)
        return self.works[task.bench, task.number]

    def _places(self, number: int) -> dict[str, int]:
        if number not in self.places:
            self.places[number] = {name: place for place, name in enumerate(self.bench(number).data.kept_ids)}
        return self.places[number]

    def _work(self, task: AttackTask, heads: Heads) -> EvaluationSpec:
        key = task.bench, task.number
        if key not in self.works:
            self.works[key] = self._new_work(task, heads)
        return self.works[key]

    def _new_work(self, task: AttackTask, heads: Heads) -> EvaluationSpec:
        suite, bench = self.order.suite, self.bench(task.bench)
        encoder, models = self._models(task.bench, heads)
        batch = bench_batch(suite.batch_size, encoder, next(iter(models.values())).view, bench.data)
        batch = min(batch, self.most.get(task.bench, batch))
        return EvaluationSpec(
            encoder,
            models,
            bench.data,
            task.attacks,
            task.made_for,
            list(models),
            batch,
            suite.precision,
            self.device,
        )

    def _models(self, number: int, heads: Heads) -> tuple[Encoder, Mapping[str, Model]]:
        """Encoder and models of a bench: on the CPU in fp32 those whose bits do not depend on the batch."""
        if number not in self.models:
            bench = self.bench(number)
            models = {
                name: probing.model_of(bench.encoder, bench.train, name, fitted, self.device)
                for name, fitted in heads.items()
            }
            steady = self.device.type == "cpu" and self.order.suite.precision == "fp32"
            self.models[number] = batch_invariant_models(bench.encoder, models) if steady else (bench.encoder, models)
        return self.models[number]


def out_of_memory(error: BaseException) -> bool:
    """Whether this says that memory did not suffice, of a device or of the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in text or "out of memory" in text.lower())
