"""Attacks made of phases, each an objective and an optimiser; each image's worst case over all of them counts."""

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
from robustprobe.attacks.base import Attack, Victim


class Phase(NamedTuple):
    """One objective raised by one optimiser, `runs` times: restarts, or one goal after another."""

    name: str
    objective: Objective
    optimiser: Optimiser
    steps: int
    runs: int = 1


class PhasedAttack(Attack):
    """Runs its phases one after another, the first from `previous`, stretched to this ball, where there is one."""

    survivors_only: ClassVar[bool] = False
    """Whether broken images leave at once, whatever the spec says."""

    @abstractmethod
    def phases(self, victim: Victim, images: Tensor) -> list[Phase]:
        """What to run for clean float32 images (B, 3, H, W), in this order."""

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
                start = self.threat.project(images + self.threat.stretch(previous - images), images)
            result = self._run(phase, images, randomness.named(phase.name), result, start)
        if result is None:
            raise ValueError(f"{type(self).__name__} has no phases")
        return result

    def _search(self, phase: Phase) -> Search:
        spec, last = self.spec, self.spec.iterate == "last"
        stop = (spec.early_exit or self.survivors_only) and not last
        return Search(self.threat, phase.objective, phase.steps, spec.step_size, spec.random_start, last, stop)

    def _run(
        self,
        phase: Phase,
        images: Tensor,
        randomness: PerImageRandom,
        result: SearchResult | None,
        start: Tensor | None,
    ) -> SearchResult:
        """All runs of a phase, as many at once as the batch is large; where broken images leave, on the others only."""
        search, done = self._search(phase), 0
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
    """The worse case of what was found before and what was found now, for the images at `index`.

    The earlier one keeps ties; where broken images leave, it keeps them too, since they would not have come so far
    with fewer runs at once.
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
    """One objective, one optimiser. Steps follow signs of gradients unless a derived class says otherwise."""

    def optimiser(self) -> Optimiser:
        """How to raise it."""
        return sign_gradient

    @abstractmethod
    def objective(self, victim: Victim, images: Tensor) -> Objective:
        """What to raise, for clean float32 images (B, 3, H, W)."""

    @final
    def phases(self, victim: Victim, images: Tensor) -> list[Phase]:
        name = self.spec.objective
        return [Phase(name, self.objective(victim, images), self.optimiser(), self.spec.steps, self.spec.restarts)]
