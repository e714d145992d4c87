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
    outranks,
    visited,
)
from robustprobe.attacks._sign_gradient import sign_gradient
from robustprobe.attacks._transferable import input_diversity, translation_smoothing
from robustprobe.attacks.base import Attack, Victim

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

    With `previous`, images of a smaller ball, the first phase has one run more: from them, scaled to this ball. Images
    that the smaller ball left unchanged have no direction to scale. The random starts are those without `previous`.
    """

    tuning: ClassVar[frozenset[str]] = SEARCH_TUNING

    @abstractmethod
    def phases(self, victim: Victim, images: Tensor) -> list[Phase]:
        """The phases for clean float32 images (B, 3, H, W), in order."""

    @final
    def perturb(
        self, victim: Victim, images: Tensor, randomness: PerImageRandom, previous: Tensor | None
    ) -> SearchResult:
        result: SearchResult | None = None
        searches: list[Tensor] = []
        for phase in self.phases(victim, images):
            named = randomness.named(phase.name)
            if result is None and previous is not None:
                result = self._from_previous(phase, images, named, previous.to(images))
                searches.append(result.images)
            found, result = self._run(phase, images, named, result)
            searches.append(found)
        if result is None:
            raise ValueError(f"{type(self).__name__} has no phases")
        if not (self.whole_set and victim.attack_losses and victim.attack_losses.of_set):
            return result
        return result._replace(searches=torch.stack([result.images, *searches]))

    def _from_previous(
        self, phase: Phase, images: Tensor, randomness: PerImageRandom, previous: Tensor
    ) -> SearchResult:
        """The images of a smaller ball, and what a run from them makes of those that were moved there."""
        search = self._search(phase, randomness)
        result = visited(search, previous, everything(images))
        going_on = (previous != images).flatten(1).any(1)
        if search.stop:
            going_on &= ~result.success
        left = going_on.nonzero()[:, 0]
        if not len(left):
            return result
        clean = images[left]
        start = self.threat.project(clean + self.threat.stretch(previous[left] - clean), clean)
        found = phase.optimiser(search, clean, Entries(left, torch.zeros_like(left)), randomness, start)
        return merged(result, found, left, search.stop)

    def _search(self, phase: Phase, randomness: PerImageRandom) -> Search:
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
            diverse=input_diversity(spec.input_diversity, randomness),
            smooth=translation_smoothing(spec.translation_kernel),
        )

    def _run(
        self, phase: Phase, images: Tensor, randomness: PerImageRandom, result: SearchResult | None
    ) -> tuple[Tensor, SearchResult]:
        """All runs of a phase, in parts of the size of the batch; with early exit on unbroken images only.

        Returns:
            the phase's own images, those of `result` where it did not run, and the better of `result` and them.
        """
        search, done = self._search(phase, randomness), 0
        own = result
        everyone, fresh = torch.arange(len(images), device=images.device), True
        while done < phase.runs:
            left = everyone
            if search.stop and result is not None:
                left = (~result.success).nonzero()[:, 0]
            if not len(left):
                break
            at_once = min(phase.runs - done, len(images) // len(left))
            runs = torch.arange(done, done + at_once, device=images.device)
            entries = Entries(left.repeat(at_once), runs.repeat_interleave(len(left)))
            found = phase.optimiser(search, images[entries.rows], entries, randomness, None)
            for run in range(at_once):
                part = SearchResult(*(value[run * len(left) : (run + 1) * len(left)] for value in found.values))
                own = part if own is None else replaced(own, part, left) if fresh else merged(own, part, left, False)
                result = part if result is None else merged(result, part, left, search.stop)
                fresh = False
            done += at_once
        assert result is not None
        assert own is not None
        return own.images, result


def replaced(result: SearchResult, part: SearchResult, index: Tensor) -> SearchResult:
    """`result` with the images at `index` those of `part`."""
    values = tuple(value.clone() for value in result.values)
    for value, new in zip(values, part.values, strict=True):
        value[index] = new
    return SearchResult(*values)


def merged(result: SearchResult, part: SearchResult, index: Tensor, stop: bool) -> SearchResult:
    """`result` with the images at `index` replaced by those of `part` where these outrank them.

    Ties keep the earlier image. With early exit (`stop`) nothing of a broken image changes, so that the result does not
    depend on how many runs are made at once.
    """
    counted = ~result.success[index] if stop else torch.ones_like(part.success)
    better = counted & outranks(part.success, part.damage, result.success[index], result.damage[index])
    images, damage, success, zeros, rising = (value.clone() for value in result.values)
    chosen = index[better]
    images[chosen], damage[chosen], success[chosen] = part.images[better], part.damage[better], part.success[better]
    zeros[index] = torch.where(counted, torch.fmax(zeros[index], part.zero_gradient), zeros[index])
    replaced = better | (~success[index] & rising[index].isnan())
    rising[index] = torch.where(replaced, part.rising, rising[index])
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
