"""What batches of an attack leave, and the columns of rows that they make together."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.types import SanityCheck
from robustprobe.evaluation.sanity_checks import trace_checks
from robustprobe.metrics.feature_gap import feature_gap
from robustprobe.results.records import Cost, FeatureGaps, Interval
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


class Judged(NamedTuple):
    """What one batch under one eps leaves, on the CPU: rows by judging task, and a few of the images.

    `positions` (B,) are those in the dataset; `size` (B,) is that of the perturbation; `zero_gradient` and `rising`
    (B,) are as in `Attacked`; `passes` counts those forward and backward of the whole batch; `ends` are the smallest
    and the largest pixel. `rows` are columns (B, ...) by task, `rounded` the same of the images rounded to 8 bits.
    `tokens` are features (B, 2, D) of the images, clean and attacked, of each of `TOKENS`, where the attack was one on
    the encoder alone. `searches` are the same for the images of each of several searches, until it is chosen which of
    them counts.
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
    searches: tuple["Judged", ...] = ()
    tokens: tuple[Tensor, ...] = ()

    def chosen(self, choice: Tensor) -> "Judged":
        """The verdicts on the images of the searches that `choice` (B,) names."""
        if not self.searches:
            return self

        def pick(parts: Sequence[Tensor]) -> Tensor:
            return torch.stack(list(parts))[choice, torch.arange(len(choice))]

        def columns(of: Callable[[Judged], dict[str, dict[str, Tensor]]]) -> dict[str, dict[str, Tensor]]:
            every = [of(search) for search in self.searches]
            return {
                task: {name: pick([one[task][name] for one in every]) for name in first}
                for task, first in every[0].items()
            }

        where = {position: int(row) for position, row in zip(self.positions.tolist(), choice, strict=True)}
        kept = zip(*(search.kept for search in self.searches), strict=True)
        return self._replace(
            size=pick([search.size for search in self.searches]),
            rows=columns(lambda search: search.rows) | {CHOICE: {CHOICE: choice}},
            rounded=columns(lambda search: search.rounded),
            kept=[several[where[several[0].position]] for several in kept],
            searches=(),
        )


TOKENS = ("class", "patch")
"""Class token, and the mean patch token of each image."""

CHOICE = "search"
"""Column of rows that says which of several searches made the image that counts; 0: the one chosen image by image."""


def _tokens_of(place: int, piece: Judged) -> Tensor:
    return piece.tokens[place]


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

    def choose(self, task: Task) -> None:
        """Choose which of several searches counts for each image, by what they do to the score of all images so far."""
        several = {len(piece.searches) for piece in self.pieces}
        if not several or several == {0}:
            return
        (count,) = several
        rows = [
            {
                name: np.asarray(
                    torch.cat([piece.searches[k].rows[task.name][name] for piece in self.pieces])[self._order]
                )
                for name in self.pieces[0].rows[task.name]
            }
            for k in range(count)
        ]
        choice = torch.empty(self.count, dtype=torch.int64)
        choice[self._order] = torch.from_numpy(task.worst_choice(rows))
        parts = choice.split([len(piece.ids) for piece in self.pieces])
        self.pieces = [piece.chosen(part) for piece, part in zip(self.pieces, parts, strict=True)]

    @property
    def count(self) -> int:
        """Images so far."""
        return sum(len(piece.ids) for piece in self.pieces)

    def _sorted(self, of: Callable[[Judged], Tensor]) -> Tensor:
        return torch.cat([of(piece) for piece in self.pieces])[self._order]

    @property
    def _order(self) -> Tensor:
        if self.order is None:
            self.order = torch.cat([piece.positions for piece in self.pieces]).argsort()
        return self.order

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

    def feature_gaps(self, groups: NDArray[np.int64] | None) -> FeatureGaps | None:
        """How far the attack changes covariances of features; None where they were not kept.

        Args:
            groups: (N,) the group of each image where images are not independent.
        """
        if not all(piece.tokens for piece in self.pieces):
            return None
        found: dict[str, Interval] = {}
        for place, name in enumerate(TOKENS):
            clean, attacked = np.moveaxis(np.asarray(self._sorted(partial(_tokens_of, place))), 1, 0)
            gap = feature_gap(clean, attacked, groups)
            found |= {f"{name}_{kind}": Interval(**value._asdict()) for kind, value in gap._asdict().items()}
        return FeatureGaps(**found)

    def columns(self, task: str, rounded: bool = False) -> dict[str, NDArray[Any]]:
        """The rows a judge wrote, by column."""

        def of(piece: Judged) -> dict[str, Tensor]:
            return (piece.rounded if rounded else piece.rows)[task]

        def column(name: str) -> NDArray[Any]:
            return np.asarray(self._sorted(lambda piece: of(piece)[name]))

        return {name: column(name) for name in of(self.pieces[0])}

    def choices(self) -> dict[str, NDArray[Any]]:
        """The column that says which search made each image; nothing where there was no choice."""
        if not all(CHOICE in piece.rows for piece in self.pieces):
            return {}
        return {CHOICE: np.asarray(self._sorted(lambda piece: piece.rows[CHOICE][CHOICE]))}

    def trace(self) -> list[SanityCheck]:
        """Sanity checks that need no attack to be run again; none where there was no attack."""
        if self.spec.eps == 0:
            return []
        ends = min(p.ends[0] for p in self.pieces), max(p.ends[1] for p in self.pieces)
        zeros, rising = self._sorted(lambda p: p.zero_gradient), self._sorted(lambda p: p.rising)
        return trace_checks(self.spec, ends, self.size, zeros, rising)
