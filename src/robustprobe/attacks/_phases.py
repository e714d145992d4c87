"""Attacks made of phases, each an objective and an optimiser; the worst result per image counts."""

from abc import abstractmethod
from typing import ClassVar, NamedTuple, final

import torch
from torch import Tensor

from robustprobe.attacks._search import (
    Entries,
    Objective,
    Optimiser,
    PerImageRandom,
    Search,
    SearchResult,
    everything,
    visited,
)
from robustprobe.attacks._sign_gradient import sign_gradient
from robustprobe.attacks._transferable import input_diversity, translation_smoothing
from robustprobe.attacks.base import Attack, Victim
from robustprobe.core.threat import over_image

SEARCH_TUNING = frozenset({"judgements", "eot_samples", "bpda"})
"""Options that every search with gradients takes."""
SIGN_TUNING = SEARCH_TUNING | {"momentum", "input_diversity", "translation_kernel"}


class Phase(NamedTuple):
    """One objective maximised by one optimiser, in `runs` runs: restarts, or one target class after another."""

    name: str
    objective: Objective
    optimiser: Optimiser
    steps: int
    runs: int = 1


class PhasedAttack(Attack):
    """Runs its phases one after another.

    The first starts from `previous`, scaled to this ball, if it is given; images that the smaller ball left unchanged
    have no direction to scale, and keep their random start.
    """

    tuning: ClassVar[frozenset[str]] = SEARCH_TUNING
    survivors_only: ClassVar[bool] = False
    """Whether the attack stops on broken images at once, independent of `early_exit`."""

    @abstractmethod
    def phases(self, victim: Victim, images: Tensor) -> list[Phase]:
        """The phases for clean float32 images (B, 3, H, W), in order."""

    @final
    def perturb(
        self, victim: Victim, images: Tensor, randomness: PerImageRandom, previous: Tensor | None
    ) -> SearchResult:
        result: SearchResult | None = None
        for phase in self.phases(victim, images):
            start = None
            if result is None and previous is not None:
                previous = previous.to(images)
                result = visited(self._search(phase), previous, everything(images))
                start = self._warm_start(phase, images, previous, randomness.named(phase.name))
            result = self._run(phase, images, randomness.named(phase.name), result, start)
        if result is None:
            raise ValueError(f"{type(self).__name__} has no phases")
        return result

    def _warm_start(self, phase: Phase, images: Tensor, previous: Tensor, randomness: PerImageRandom) -> Tensor:
        moved = (previous != images).flatten(1).any(1)
        direction = previous
        if not moved.all():
            random = self._search(phase).start(images, everything(images), randomness)
            direction = torch.where(over_image(moved), previous, random)
        return self.threat.project(images + self.threat.stretch(direction - images), images)

    def _search(self, phase: Phase) -> Search:
        spec, last = self.spec, self.spec.iterate == "last"
        stop = (spec.early_exit or self.survivors_only) and not last
        return Search(
            self.threat,
            phase.objective,
            phase.steps,
            spec.step_size,
            spec.random_start,
            last,
            stop,
            draws=spec.eot_samples,
            momentum=spec.momentum,
            smooth=translation_smoothing(spec.translation_kernel),
        )

    def _run(
        self,
        phase: Phase,
        images: Tensor,
        randomness: PerImageRandom,
        result: SearchResult | None,
        start: Tensor | None,
    ) -> SearchResult:
        """All runs of a phase, in parts of the size of the batch; with early exit on unbroken images only."""
        search, done = self._search(phase), 0
        search = search._replace(diverse=input_diversity(self.spec.input_diversity, randomness))
        while done < phase.runs:
            left = torch.arange(len(images), device=images.device)
            if search.stop and result is not None:
                left = (~result.success).nonzero()[:, 0]
            if not len(left):
                break
            at_once = 1 if start is not None else min(phase.runs - done, len(images) // len(left))
            runs = torch.arange(done, done + at_once, device=images.device)
            entries = Entries(left.repeat(at_once), runs.repeat_interleave(len(left)))
            begin = None if start is None else start[left]
            found, start = phase.optimiser(search, images[entries.rows], entries, randomness, begin), None
            for run in range(at_once):
                part = SearchResult(*(value[run * len(left) : (run + 1) * len(left)] for value in found))
                result = part if result is None else merged(result, part, left, search.stop)
            done += at_once
        assert result is not None
        return result


def merged(result: SearchResult, part: SearchResult, index: Tensor, stop: bool) -> SearchResult:
    """`result` with the images at `index` replaced by those of `part` where these have more damage.

    Ties keep the earlier image. With early exit (`stop`) broken images are kept too, so that the result does not
    depend on how many runs are made at once.
    """
    better = part.damage > result.damage[index]
    if stop:
        better = better & ~result.success[index]
    images, damage, success, zeros, rising = (value.clone() for value in result)
    chosen = index[better]
    images[chosen], damage[chosen], success[chosen] = part.images[better], part.damage[better], part.success[better]
    zeros[index] = torch.fmax(zeros[index], part.zero_gradient)
    rising[index] = torch.where(better | rising[index].isnan(), part.rising, rising[index])
    return SearchResult(images, damage, success, zeros, rising)


class GradientAttack(PhasedAttack):
    """One objective, one optimiser: sign-gradient steps unless a derived class overrides `optimiser`.

    A class with another optimiser also says in `tuning` which options it takes.
    """

    tuning: ClassVar[frozenset[str]] = SIGN_TUNING

    def optimiser(self) -> Optimiser:
        """The optimiser that maximises the objective."""
        return sign_gradient

    @abstractmethod
    def objective(self, victim: Victim, images: Tensor) -> Objective:
        """The objective to maximise, for clean float32 images (B, 3, H, W)."""

    @final
    def phases(self, victim: Victim, images: Tensor) -> list[Phase]:
        name = self.spec.objective
        return [Phase(name, self.objective(victim, images), self.optimiser(), self.spec.steps, self.spec.restarts)]
