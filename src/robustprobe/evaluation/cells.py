"""Cells, and what they are grouped into: attacks at several eps, encoders on datasets, and the plan of a run."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch

from robustprobe import probing
from robustprobe.attacks import attack_class
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.eps import implausible_eps
from robustprobe.core.spec import Suite
from robustprobe.datasets import Dataset, LabelReport
from robustprobe.encoders import Encoder
from robustprobe.evaluation.evaluate import is_checked_again


class Cell(NamedTuple):
    """One number's worth of work: the task whose head judges, the name of everything the number depends on, whether it
    is in the store, and whether it is checked there on fewer images than the suite asks for.
    """

    task: str
    fingerprint: str
    done: bool
    lacks_checks: bool = False
    threads: tuple[int, ...] = ()
    """Threads of torch it was measured with, where it is done."""


class EpsLevel(NamedTuple):
    """An attack at one eps, the name of its adversarial images, and the cells they fill: all, so examples are whole."""

    group: str
    attack: AttackSpec
    cells: tuple[Cell, ...]


class AttackJob(NamedTuple):
    """One attack of a pair at ascending eps, against the model of one task or none; `source` is the encoder on these
    images that the attack is made on, None for the pair's own.
    """

    target_task: str
    levels: tuple[EpsLevel, ...]
    source: "EncoderOnDataset | None" = None

    @property
    def cells(self) -> list[Cell]:
        return [cell for level in self.levels for cell in level.cells]

    @property
    def name(self) -> str:
        """The attack in words."""
        label = self.levels[0].attack.label
        label = f"{label} against {self.target_task}" if self.target_task else label
        return f"{label} made on {self.source.encoder.card.name}" if self.source else label

    @property
    def may_end_sooner(self) -> bool:
        """Whether broken images leave the search, so that its estimated seconds are the most it takes."""
        return any(level.attack.early_exit or attack_class(level.attack).survivors_only for level in self.levels)

    def is_checked_again(self, spec: AttackSpec) -> bool:
        """Whether sanity checks attack images again: those of a white-box attack would say nothing of a transfer."""
        return self.source is None and is_checked_again(spec)


class PairKey(NamedTuple):
    """Names an encoder on a dataset within a run: the index of each in the suite, whose `transfer_from` follows its
    `encoders`.
    """

    encoder: int
    dataset: int


class EncoderOnDataset(NamedTuple):
    """An encoder on a dataset: images to report on and their digest, the heads that judge, and the attacks."""

    key: PairKey
    encoder: Encoder
    data: Dataset
    digest: str
    heads: probing.HeadPlan
    jobs: tuple[AttackJob, ...]
    labels: LabelReport = LabelReport({}, ())
    """What the labels hold."""
    content: str = ""
    """The digest of the images whatever size they are served at."""

    @property
    def head_keys(self) -> dict[str, str]:
        """Fingerprints of the heads, by task."""
        return self.heads.keys

    @property
    def left(self) -> list[AttackJob]:
        """Jobs with a cell that is not done."""
        return [job for job in self.jobs if not all(cell.done for cell in job.cells)]

    @property
    def label(self) -> str:
        return f"{self.encoder.card.name} on {self.data.name}"


class PairCost(NamedTuple):
    """Estimated seconds of computing of what a pair lacks: fitting its heads, and each of the jobs in `left`; and the
    bytes of features that are kept while heads learn.

    `load` is how many times longer the same took on the clock, as other work ran beside it.
    """

    heads: float
    jobs: tuple[float, ...]
    kept_bytes: int
    load: float = 1.0

    @property
    def seconds(self) -> float:
        return self.heads + sum(self.jobs)


class Plan(NamedTuple):
    """What a run will do, before it does it. Seconds are an estimate from a short measurement on this machine: of
    computing, or of processor time on a CPU, so that they hardly depend on what else runs there. `kept_bytes` is what
    the features of the largest dataset take while heads learn.
    """

    suite: Suite
    root: Path
    device: torch.device
    pairs: tuple[EncoderOnDataset, ...]
    seconds: float
    kept_bytes: int = 0
    encoders: tuple[Encoder, ...] = ()
    """Encoders that were given as objects, in place of the suite's names."""
    peak_bytes: int | None = None
    """Most bytes that are expected to be held: on a GPU of tensors, on a CPU by the process; None where unknown."""

    costs: Mapping[PairKey, PairCost] = MappingProxyType({})
    """Of every pair that lacks something, what `seconds` is the sum of."""

    @property
    def head_seconds(self) -> float:
        """The part of `seconds` in which heads are fitted."""
        return sum(cost.heads for cost in self.costs.values())

    @property
    def load(self) -> float:
        """How many times longer the measurement took on the clock than computing, as other work ran beside it."""
        computing = sum(cost.seconds for cost in self.costs.values())
        return sum(cost.seconds * cost.load for cost in self.costs.values()) / computing if computing else 1.0

    @property
    def clock_seconds(self) -> float:
        """The same as `seconds` on the clock, while this machine is as busy as it was during the measurement."""
        return self.seconds * self.load

    @property
    def bounded(self) -> dict[str, float]:
        """Attacks that broken images leave, and the most seconds of computing that each of them takes."""
        found: dict[str, float] = {}
        for pair in self.pairs:
            for job, seconds in zip(pair.left, self.costs[pair.key].jobs if pair.left else (), strict=True):
                if job.may_end_sooner:
                    name = job.levels[0].attack.label
                    found[name] = found.get(name, 0.0) + seconds
        return found

    @property
    def cells(self) -> list[Cell]:
        """All cells of the run, done or not."""
        return [cell for pair in self.pairs for job in pair.jobs for cell in job.cells]

    @property
    def warnings(self) -> list[str]:
        """What is legal but implausible, one sentence each; records carry the same as failed checks."""
        nothing = ["eps 0 leaves the images as they are"] if 0 in (self.suite.eps or ()) else []
        said = dict.fromkeys(
            f"{pair.data.name}: {text}"
            for pair in self.pairs
            for job in pair.jobs
            for level in job.levels
            if (text := implausible_eps(level.attack, pair.data.typical_size))
        )
        said |= dict.fromkeys(f"{pair.data.name}: {text}" for pair in self.pairs for text in pair.heads.doubts)
        said |= dict.fromkeys(t for pair in self.pairs for task in pair.head_keys for t in pair.heads.text_doubts(task))
        said |= dict.fromkeys(
            f"{pair.data.name}: {task}: {text}" for pair in self.pairs for task, text in pair.labels.doubts
        )
        return [*nothing, *said]

    @property
    def label_facts(self) -> list[str]:
        """What the labels of each dataset hold, one line for each task."""
        facts = (f"{p.data.name}: {task}: {text}" for p in self.pairs for task, text in p.labels.facts.items())
        return list(dict.fromkeys(facts))

    def fingerprints(self) -> set[str]:
        """Names of all cells of the run, done or not."""
        return {cell.fingerprint for cell in self.cells}
