"""What is kept of a job's batches: rows, sizes, passes, and a few images to show and to check the attack on."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustprobe.core.spec import AttackSpec
from robustprobe.core.types import SanityCheck
from robustprobe.evaluation.evaluate import EvaluationSpec, JudgedBatch, attacked_function, victim
from robustprobe.evaluation.sanity_checks import CheckedImages, JudgingModel, sample_checks, trace_checks
from robustprobe.results.records import Cost
from robustprobe.tasks import Task


class KeptImage(NamedTuple):
    """One image with its labels, what the attack made of it, and by task the head's answer and the score.

    Answers are reduced as `Task.shown_output` does.
    """

    position: int
    id: str
    image: Tensor
    adversarial: Tensor
    damage: Tensor
    targets: dict[str, Tensor]
    answers: dict[str, Tensor]
    scores: dict[str, float]


class BatchRows(NamedTuple):
    """What is kept of one batch under one eps: columns as in `JudgedBatch`, and a few of the images."""

    positions: Tensor
    ids: list[str]
    size: Tensor
    zero_gradient: Tensor
    rising: Tensor
    passes: tuple[int, int]
    ends: tuple[float, float]
    rows: dict[str, dict[str, Tensor]]
    rounded: dict[str, dict[str, Tensor]]
    kept: list[KeptImage]


def piece_of(judged: JudgedBatch, keep: Collection[int], tasks: Mapping[str, Task]) -> BatchRows:
    """A batch without its images, but for those at the positions to keep."""
    batch, attacked = judged.batch, judged.attacked
    kept = [_kept(judged, row, tasks) for row, position in enumerate(judged.positions) if position in keep]
    made = attacked.images
    return BatchRows(
        positions=torch.tensor(list(judged.positions)),
        ids=batch.ids,
        size=judged.size,
        zero_gradient=attacked.zero_gradient,
        rising=attacked.rising,
        passes=(attacked.forwards, attacked.backwards),
        ends=(float(made.min()), float(made.max())),
        rows=judged.rows,
        rounded=judged.rounded,
        kept=kept,
    )


def _kept(judged: JudgedBatch, row: int, tasks: Mapping[str, Task]) -> KeptImage:
    # Copies: a row would hold the whole batch in memory.
    batch, attacked = judged.batch, judged.attacked
    targets = {task: target[row].clone() for task, target in batch.targets.items()}
    answers = {name: tasks[name].shown_output(output[row]) for name, output in judged.outputs.items()}
    rows = {name: {c: v[row : row + 1] for c, v in columns.items()} for name, columns in judged.rows.items()}
    scores = {name: float(tasks[name].score(columns)) for name, columns in rows.items()}
    images = batch.images[row].clone(), attacked.images[row].clone(), attacked.damage[row].clone()
    return KeptImage(judged.positions[row], batch.ids[row], *images, targets, answers, scores)


def largest_group(kept: Sequence[KeptImage]) -> list[KeptImage]:
    """Those of the most common shape: the attack is run again on them as one batch."""
    groups: dict[tuple[object, ...], list[KeptImage]] = {}
    for one in kept:
        shapes = (one.image.shape, *(target.shape for target in one.targets.values()))
        groups.setdefault(shapes, []).append(one)
    return max(groups.values(), key=len)


class RowCollector:
    """Collects one attack at one eps, piece by piece in any order; all it says is in the order of the dataset."""

    def __init__(self, spec: AttackSpec, positions: Collection[int]) -> None:
        self.spec, self.positions = spec, positions
        self.pieces: list[BatchRows] = []
        self.order: Tensor | None = None

    def add(self, judged: JudgedBatch, tasks: Mapping[str, Task]) -> None:
        """Take note of a batch."""
        self.take(piece_of(judged, self.positions, tasks))

    def take(self, piece: BatchRows) -> None:
        """Take note of a piece."""
        self.pieces.append(piece)
        self.order = None

    @property
    def count(self) -> int:
        """Images so far."""
        return sum(len(piece.ids) for piece in self.pieces)

    def _sorted(self, of: Callable[[BatchRows], Tensor]) -> Tensor:
        if self.order is None:
            self.order = torch.cat([piece.positions for piece in self.pieces]).argsort()
        return torch.cat([of(piece) for piece in self.pieces])[self.order]

    @property
    def ids(self) -> list[str]:
        """Names of the images."""
        named = zip(torch.cat([piece.positions for piece in self.pieces]).tolist(), self._names(), strict=True)
        return [name for _, name in sorted(named)]

    def _names(self) -> list[str]:
        return [name for piece in self.pieces for name in piece.ids]

    @property
    def kept(self) -> list[KeptImage]:
        """The images to check the attack on."""
        return [one for one in self.everything_kept if one.position in self.positions]

    @property
    def everything_kept(self) -> list[KeptImage]:
        """All images that were kept."""
        return sorted((one for piece in self.pieces for one in piece.kept), key=lambda one: one.position)

    @property
    def size(self) -> Tensor:
        """Size of each perturbation (N,)."""
        return self._sorted(lambda piece: piece.size)

    @property
    def cost(self) -> Cost:
        """Passes an image."""
        forwards, backwards = (sum(piece.passes[which] for piece in self.pieces) for which in (0, 1))
        return Cost(forwards=forwards / self.count, backwards=backwards / self.count)

    def columns(self, task: str, rounded: bool = False) -> dict[str, NDArray[Any]]:
        """The rows a judge wrote, by column."""

        def of(piece: BatchRows) -> dict[str, Tensor]:
            return (piece.rounded if rounded else piece.rows)[task]

        def column(name: str) -> NDArray[Any]:
            return np.asarray(self._sorted(lambda piece: of(piece)[name]))

        return {name: column(name) for name in of(self.pieces[0])}

    def checks(self, work: EvaluationSpec) -> dict[str, list[SanityCheck]]:
        """Checks of the attack, by judging task; none where there was no attack."""
        found = checked_again(work, self.spec, self.kept)
        return {task: [*self.trace(), *found.get(task, [])] for task in work.judges}

    def trace(self) -> list[SanityCheck]:
        """What the attack left behind on all images."""
        if self.spec.eps == 0:
            return []
        ends = min(p.ends[0] for p in self.pieces), max(p.ends[1] for p in self.pieces)
        zeros, rising = self._sorted(lambda p: p.zero_gradient), self._sorted(lambda p: p.rising)
        return trace_checks(self.spec, ends, self.size, zeros, rising)


def checked_again(work: EvaluationSpec, spec: AttackSpec, kept: Sequence[KeptImage]) -> dict[str, list[SanityCheck]]:
    """What running the attack again on a few images tells, by judging task."""
    if not kept or spec.eps == 0 or spec.name == "noise":
        return {}
    device, kept = work.device, largest_group(kept)
    labels = {t: torch.stack([k.targets[t] for k in kept]).to(device) for t in work.dataset.labels}
    size = (kept[0].image.shape[-2], kept[0].image.shape[-1])
    sample = CheckedImages(
        victim(work, attacked_function(work), labels, [k.position for k in kept], size),
        torch.stack([k.image for k in kept]).to(device),
        [k.id for k in kept],
        torch.stack([k.adversarial for k in kept]).to(device),
        torch.stack([k.damage for k in kept]),
    )
    tasks = [work.target_task] if work.target_task else work.judges
    return sample_checks(spec, sample, {t: JudgingModel(work.models[t], labels[t], work.models[t].task) for t in tasks})
