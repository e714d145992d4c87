"""What is done in one process: heads fitted, shards attacked and judged, attacks checked.

Encoders, datasets and heads are loaded once for a process, not for every shard.
"""

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.device import PeakMemory, out_of_memory, return_free_memory
from robustprobe.core.errors import UserError
from robustprobe.core.fingerprints import code_digest
from robustprobe.core.spec import Suite
from robustprobe.core.types import SanityCheck
from robustprobe.encoders import Encoder, go_offline, load_encoder
from robustprobe.evaluation.batch_invariant import batch_invariant
from robustprobe.evaluation.cells import EncoderOnDataset, PairKey
from robustprobe.evaluation.collect import Judged, KeptImage
from robustprobe.evaluation.cost import PassMemory, pair_batch
from robustprobe.evaluation.evaluate import EvaluationSpec, check_again, evaluate, space_of_set
from robustprobe.evaluation.partial_results import PartialResult
from robustprobe.evaluation.plan import load_pair
from robustprobe.evaluation.universal_perturbations import UniversalPerturbations
from robustprobe.probing import Fitted
from robustprobe.probing.surrogate_heads import SurrogateHeads

# Images between two times that free memory is given back.
TRIM_EVERY = 256
Notify = Callable[[str, int, int], None]
Heads = Mapping[str, Fitted]


class RunSpec(NamedTuple):
    """What a process must know to take part in a run, wherever it is.

    `encoders` are objects where the caller gave objects, else there are none: then they are loaded by their names.
    `digests` are those of the encoder and of the images of every pair, and `code` that of robustprobe, as the process
    that ordered the work sees them.
    """

    key: str
    suite: Suite
    root: Path
    device: str
    encoders: tuple[Encoder, ...]
    digests: Mapping[PairKey, tuple[str, str]]
    code: str
    folder: Path
    """The working folder: what `my.py:Class` and `imagefolder:PATH` are relative to."""
    offline: bool = False


Rank = tuple[PairKey, int, int]
"""Work items are done in this order: by pair, then by attack, then by part of the images."""


class AttackTask(NamedTuple):
    """An attack at ascending eps against the model of one task or none, of one encoder on one dataset.

    `number` tells the attacks of a pair apart; `keep` are positions of images that are to be shown, or to check the
    attack on.
    """

    pair: PairKey
    number: int
    target_task: str
    attacks: tuple[AttackSpec, ...]
    keep: frozenset[int]
    source: PairKey | None = None
    """The encoder that is attacked, on the same dataset, where it is not the one that judges."""


class FitHeads(NamedTuple):
    """The heads of an encoder on a dataset."""

    pair: PairKey

    @property
    def rank(self) -> Rank:
        """What comes first."""
        return self.pair, -1, 0


class JudgeImages(NamedTuple):
    """A shard: some images of a task, attacked and judged."""

    task: AttackTask
    ids: tuple[str, ...]
    number: int

    @property
    def pair(self) -> PairKey:
        return self.task.pair

    @property
    def rank(self) -> Rank:
        """What comes first."""
        return self.pair, self.task.number, self.number


class CheckAttack(NamedTuple):
    """The attacks of a task, run again on a few images each; `chance` is what a constant answer scores on all images,
    by judging task.
    """

    task: AttackTask
    kept: tuple[Sequence[KeptImage], ...]
    chance: Mapping[str, float | None] = {}

    @property
    def pair(self) -> PairKey:
        return self.task.pair

    @property
    def rank(self) -> Rank:
        """What comes first."""
        return self.pair, self.task.number, -1


WorkItem = FitHeads | JudgeImages | CheckAttack
Findings = list[dict[str, list[SanityCheck]]]


class WorkerState:
    """The encoders, datasets and heads of one process, and the work done with them."""

    def __init__(self, run_spec: RunSpec, pairs: Sequence[EncoderOnDataset] = ()) -> None:
        self.run_spec, self.device = run_spec, torch.device(run_spec.device)
        self.pairs = {pair.key: pair for pair in with_sources(pairs)}
        self.encoders = dict(enumerate(run_spec.encoders))
        self.surrogates: dict[int, SurrogateHeads] = {}
        self.judging: dict[PairKey, EvaluationSpec] = {}
        self.works: dict[tuple[PairKey, int], EvaluationSpec] = {}
        self.positions: dict[PairKey, dict[str, int]] = {}
        self.most: dict[PairKey, int] = {}
        self.memory = PassMemory(self.device, run_spec.suite)
        if run_spec.offline:
            go_offline()

    def pair(self, key: PairKey) -> EncoderOnDataset:
        """An encoder on a dataset.

        Raises:
            UserError: they are not here, or not those that the run is about.
        """
        if key not in self.pairs:
            suite = self.run_spec.suite
            if key.encoder not in self.encoders:
                self.encoders[key.encoder] = load_encoder((*suite.encoders, *suite.transfer_from)[key.encoder])
            encoder = self.encoders[key.encoder].freeze().to(self.device)
            pair = load_pair(suite, key, encoder, self.run_spec.root)
            wanted = (*self.run_spec.digests[key], self.run_spec.code)
            found = (encoder.digest, pair.digest, code_digest())
            names = f"weights of {encoder.card.name}", f"files of {pair.data.name}", "robustprobe"
            for what, here, there in zip(names, found, wanted, strict=True):
                if here != there:
                    raise UserError(
                        f"{what} on {platform.node()}: not the same as on the machine that started the run. "
                        "See `robustprobe doctor --cluster`."
                    )
            self.pairs[key] = pair
        return self.pairs[key]

    def fit(self, item: FitHeads, notify: Notify) -> Heads:
        """Heads of a pair, from the cache where they were fitted before; on the CPU."""
        probes = self.pair(item.pair).heads.fit(self.device, notify=notify)
        return {task: fitted for task, (_, fitted) in probes.items()}

    def judge(self, item: JudgeImages, heads: Heads, notify: Notify, say: Callable[[str], None]) -> PartialResult:
        """Attack and judge a shard; with smaller batches where memory does not suffice."""
        work, positions = self._work(item.task, heads), self._positions(item.pair)
        left, batches = [positions[name] for name in item.ids], list[tuple[Judged, ...]]()
        peak = PeakMemory(self.device)
        while left:
            try:
                for judged in evaluate(work, left, item.task.keep):
                    batches.append(judged)
                    done = len(judged[0].ids)
                    left = left[done:]
                    notify("", len(item.ids) - len(left), len(item.ids))
                    if (len(left) + done) // TRIM_EVERY != len(left) // TRIM_EVERY:
                        return_free_memory()
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                work = self._smaller(item.task, work, say)
        threads = torch.get_num_threads() if self.device.type == "cpu" else None
        return PartialResult(item.ids, batches, peak.bytes, threads)

    def check(self, item: CheckAttack, heads: Heads) -> Findings:
        """Run attacks again on the images that were kept for that, by eps and judging task."""
        work = self._work(item.task, heads)
        return [
            check_again(work, spec, kept, item.chance) for spec, kept in zip(item.task.attacks, item.kept, strict=True)
        ]

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

    def _positions(self, key: PairKey) -> dict[str, int]:
        if key not in self.positions:
            self.positions[key] = {name: position for position, name in enumerate(self.pair(key).data.kept_ids)}
        return self.positions[key]

    def _work(self, task: AttackTask, heads: Heads) -> EvaluationSpec:
        key = task.pair, task.number
        if key not in self.works:
            judging = self._judging(task.pair, heads)
            source = self._judging(task.source, self.fit(FitHeads(task.source), _unheard)) if task.source else None
            most = min(spec.batch_size for spec in (judging, source) if spec)
            work = judging._replace(
                source=source,
                attacks=task.attacks,
                target_task=task.target_task,
                batch_size=min(most, self.most.get(task.pair, most)),
            )
            self.works[key] = work._replace(space=space_of_set(work))
        return self.works[key]

    def _judging(self, key: PairKey, heads: Heads) -> EvaluationSpec:
        """The models of a pair without an attack: on the CPU in fp32 those whose bits do not depend on the batch."""
        if key not in self.judging:
            suite, pair = self.run_spec.suite, self.pair(key)
            models = {name: pair.heads.model(name, fitted, self.device) for name, fitted in heads.items()}
            batch = pair_batch(suite.batch_size, pair.encoder, next(iter(models.values())).view, pair.data, self.memory)
            if key.encoder not in self.surrogates:
                self.surrogates[key.encoder] = SurrogateHeads(pair.encoder, self.device, self.run_spec.code)
            work = EvaluationSpec(
                encoder=pair.encoder,
                models=models,
                dataset=pair.data,
                attacks=(),
                target_task="",
                judges=list(models),
                batch_size=batch,
                precision=suite.precision,
                device=self.device,
                surrogates=self.surrogates[key.encoder],
                universal=self._universal(pair),
            )
            invariant = self.device.type == "cpu" and suite.precision == "fp32"
            self.judging[key] = batch_invariant(work) if invariant else work
        return self.judging[key]

    def _universal(self, pair: EncoderOnDataset) -> UniversalPerturbations:
        train, code = pair.heads.data.train, self.run_spec.code
        return UniversalPerturbations(pair.encoder.digest, pair.head_keys, train, self.run_spec.suite.precision, code)


def with_sources(pairs: Iterable[EncoderOnDataset]) -> list[EncoderOnDataset]:
    """Pairs, and those whose encoders images are made on for them."""
    known = list(pairs)
    return [*known, *(job.source for pair in known for job in pair.jobs if job.source)]


def _unheard(stage: str, done: int, total: int) -> None:
    """Heads of another encoder belong to no stage that is shown."""
