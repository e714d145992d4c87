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
from robustprobe.core.types import SanityCheck
from robustprobe.encoders import Encoder, go_offline, load_encoder
from robustprobe.evaluation.batch_invariant import batch_invariant_models
from robustprobe.evaluation.collect import BatchRows, KeptImage, checked_again, piece_of
from robustprobe.evaluation.evaluate import EvaluationSpec, evaluate
from robustprobe.evaluation.partial_results import PartialResult
from robustprobe.evaluation.plan import EncoderOnDataset, pair_batch, pair_of
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

    pair: int
    number: int
    target_task: str
    attacks: tuple[AttackSpec, ...]
    keep: frozenset[int]


class FitHeads(NamedTuple):
    """The heads of a bench."""

    pair: int

    @property
    def rank(self) -> tuple[int, int, int]:
        """What comes first."""
        return self.pair, -1, 0


class JudgeImages(NamedTuple):
    """A shard: some images of a task, attacked and judged."""

    task: AttackTask
    ids: tuple[str, ...]
    number: int

    @property
    def pair(self) -> int:
        return self.task.pair

    @property
    def rank(self) -> tuple[int, int, int]:
        """What comes first."""
        return self.pair, self.task.number, self.number


class CheckAttack(NamedTuple):
    """The attacks of a task, run again on a few images each."""

    task: AttackTask
    kept: tuple[Sequence[KeptImage], ...]

    @property
    def pair(self) -> int:
        return self.task.pair

    @property
    def rank(self) -> tuple[int, int, int]:
        """What comes first."""
        return self.pair, self.task.number, -1


WorkItem = FitHeads | JudgeImages | CheckAttack
Findings = list[dict[str, list[SanityCheck]]]


class WorkerState:
    """The encoders, datasets and heads of one process, and the work done with them."""

    def __init__(self, run_spec: RunSpec, pairs: Sequence[EncoderOnDataset] = ()) -> None:
        self.run_spec, self.device = run_spec, torch.device(run_spec.device)
        self.pairs = dict(enumerate(pairs))
        self.models: dict[int, tuple[Encoder, Mapping[str, Model]]] = {}
        self.works: dict[tuple[int, int], EvaluationSpec] = {}
        self.positions: dict[int, dict[str, int]] = {}
        self.most: dict[int, int] = {}
        if run_spec.offline:
            go_offline()

    @cached_property
    def encoders(self) -> dict[int, Encoder]:
        """Encoders that are loaded."""
        return dict(enumerate(self.run_spec.encoders or ()))

    def pair(self, number: int) -> EncoderOnDataset:
        """An encoder at a dataset.

        Raises:
            UserError: they are not here, or not those that the run is about.
        """
        if number not in self.pairs:
            suite = self.run_spec.suite
            which, position = divmod(number, len(suite.datasets))
            if which not in self.encoders:
                self.encoders[which] = load_encoder(suite.encoders[which])
            encoder = self.encoders[which].freeze().to(self.device)
            pair = pair_of(suite, encoder, position, self.run_spec.root)
            wanted = (*self.run_spec.digests[number], self.run_spec.code)
            found = (encoder.digest, pair.digest, code_digest())
            names = f"weights of {encoder.card.name}", f"files of {pair.data.name}", "robustprobe"
            for what, here, there in zip(names, found, wanted, strict=True):
                if here != there:
                    raise UserError(
                        f"{what} on {platform.node()}: not the same as on the machine that started the run. "
                        "See `robustprobe doctor --cluster`."
                    )
            self.pairs[number] = pair
        return self.pairs[number]

    def fit(self, item: FitHeads, notify: Notify) -> Heads:
        """Heads of a bench, from the cache where they were fitted before; on the CPU."""
        pair = self.pair(item.pair)
        probes = probing.fit_probes(
            pair.encoder,
            pair.train,
            list(pair.head_keys),
            spec=self.run_spec.suite.head,
            device=self.device,
            notify=notify,
        )
        return {task: fitted for task, (_, fitted) in probes.items()}

    def judge(self, item: JudgeImages, heads: Heads, notify: Notify, say: Callable[[str], None]) -> PartialResult:
        """Attack and judge a shard; with smaller batches where memory does not suffice."""
        work, positions = self._work(item.task, heads), self._places(item.pair)
        left, batches = [positions[name] for name in item.ids], list[tuple[BatchRows, ...]]()
        peak = PeakMemory(self.device)
        while left:
            try:
                for judgements in evaluate(work, left):
                    batches.append(tuple(piece_of(judged, item.task.keep, work.tasks) for judged in judgements))
                    done = len(batches[-1][0].ids)
                    left = left[done:]
                    notify("", len(item.ids) - len(left), len(item.ids))
                    if (len(left) + done) // TRIM_EVERY != len(left) // TRIM_EVERY:
                        return_free_memory()
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                work = self._smaller(item.task, work, say)
        return PartialResult(item.ids, batches, peak.bytes)

    def check(self, item: CheckAttack, heads: Heads) -> Findings:
        """Run attacks again on the images that were kept for that, by eps and judging task."""
        work = self._work(item.task, heads)
        pairs = zip(item.task.attacks, item.kept, strict=True)
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
        self.most[task.pair] = half
        self.works = {key: w for key, w in self.works.items() if key[0] != task.pair}
        self.works[task.pair, task.number] = work._replace(batch_size=half)
        return self.works[task.pair, task.number]

    def _places(self, number: int) -> dict[str, int]:
        if number not in self.positions:
            self.positions[number] = {name: position for position, name in enumerate(self.pair(number).data.kept_ids)}
        return self.positions[number]

    def _work(self, task: AttackTask, heads: Heads) -> EvaluationSpec:
        key = task.pair, task.number
        if key not in self.works:
            self.works[key] = self._new_work(task, heads)
        return self.works[key]

    def _new_work(self, task: AttackTask, heads: Heads) -> EvaluationSpec:
        suite, pair = self.run_spec.suite, self.pair(task.pair)
        encoder, models = self._models(task.pair, heads)
        batch = pair_batch(suite.batch_size, encoder, next(iter(models.values())).view, pair.data)
        batch = min(batch, self.most.get(task.pair, batch))
        return EvaluationSpec(
            encoder,
            models,
            pair.data,
            task.attacks,
            task.target_task,
            list(models),
            batch,
            suite.precision,
            self.device,
        )

    def _models(self, number: int, heads: Heads) -> tuple[Encoder, Mapping[str, Model]]:
        """Encoder and models of a bench: on the CPU in fp32 those whose bits do not depend on the batch."""
        if number not in self.models:
            pair = self.pair(number)
            models = {
                name: probing.model_of(pair.encoder, pair.train, name, fitted, self.device)
                for name, fitted in heads.items()
            }
            steady = self.device.type == "cpu" and self.run_spec.suite.precision == "fp32"
            self.models[number] = batch_invariant_models(pair.encoder, models) if steady else (pair.encoder, models)
        return self.models[number]


def out_of_memory(error: BaseException) -> bool:
    """Whether this says that memory did not suffice, of a device or of the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in text or "out of memory" in text.lower())
