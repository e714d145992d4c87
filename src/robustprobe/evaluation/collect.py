"""What batches of an attack leave, and the columns of rows that they make together."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustprobe.core.spec import AttackSpec
from robustprobe.core.types import SanityCheck
from robustprobe.evaluation.sanity_checks import trace_checks
from robustprobe.results.records import Cost


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


class Judged(NamedTuple):
    """What one batch under one eps leaves, on the CPU: rows by judging task, and a few of the images.

    `positions` (B,) are those in the dataset; `size` (B,) is that of the perturbation; `zero_gradient` and `rising`
    (B,) are as in `Attacked`; `passes` counts those forward and backward of the whole batch; `ends` are the smallest
    and the largest pixel. `rows` are columns (B, ...) by task, `rounded` the same of the images rounded to 8 bits.
    """

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


def largest_group(kept: Sequence[KeptImage]) -> list[KeptImage]:
    """Those of the most common shape: the attack is run again on them as one batch."""
    groups: dict[tuple[object, ...], list[KeptImage]] = {}
    for one in kept:
        shapes = (one.image.shape, *(target.shape for target in one.targets.values()))
        groups.setdefault(shapes, []).append(one)
    return max(groups.values(), key=len)


class RowCollector:
    """Collects what batches of one attack at one eps leave, in any order; columns are in the order of the dataset."""

    def __init__(self, spec: AttackSpec, positions: Collection[int]) -> None:
        self.spec, self.positions = spec, positions
        self.pieces: list[Judged] = []
        self.order: Tensor | None = None

    def take(self, piece: Judged) -> None:
        """Add what a batch left."""
        self.pieces.append(piece)
        self.order = None

    @property
    def count(self) -> int:
        """Images so far."""
        return sum(len(piece.ids) for piece in self.pieces)

    def _sorted(self, of: Callable[[Judged], Tensor]) -> Tensor:
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

        def of(piece: Judged) -> dict[str, Tensor]:
            return (piece.rounded if rounded else piece.rows)[task]

        def column(name: str) -> NDArray[Any]:
            return np.asarray(self._sorted(lambda piece: of(piece)[name]))

        return {name: column(name) for name in of(self.pieces[0])}

    def trace(self) -> list[SanityCheck]:
        """Sanity checks that need no attack to be run again; none where there was no attack."""
        if self.spec.eps == 0:
            return []
        ends = min(p.ends[0] for p in self.pieces), max(p.ends[1] for p in self.pieces)
        zeros, rising = self._sorted(lambda p: p.zero_gradient), self._sorted(lambda p: p.rising)
        return trace_checks(self.spec, ends, self.size, zeros, rising)
