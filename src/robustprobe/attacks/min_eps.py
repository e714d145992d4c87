"""Smallest eps that costs an image its class, or a share of its score on other tasks, by bisection with Auto-PGD"""

import math
from typing import ClassVar, cast, final

import torch
from torch import Tensor

from robustprobe.attacks._apgd import apgd
from robustprobe.attacks._phases import SEARCH_TUNING
from robustprobe.attacks._search import (
    Entries,
    Optimiser,
    Passes,
    PerImageRandom,
    Search,
    SearchResult,
    ascent_passes,
    everything,
    visited,
)
from robustprobe.attacks._sign_gradient import sign_gradient
from robustprobe.attacks._task_objectives import lost_score, task_objective
from robustprobe.attacks.base import LOOKS, Attack, Victim
from robustprobe.core.attack_spec import LOST_SHARE
from robustprobe.core.threat import L1, Threat
from robustprobe.core.types import AttackLosses

LEVELS = 64
"""The ball of a broken image is at most eps / LEVELS larger than one in which the attack failed."""


@final
class MinEps(Attack):
    """Returns each image as the smallest ball in which it broke left it, or as the whole ball left it unbroken.

    The size of its perturbation is the number sought, to eps / 64: 0 for images that are wrong from the start. Each
    level is tried from the larger ball's image, drawn into the smaller one, and then from a random start.

    An image breaks when its score falls to `1 - lost_share` of its clean one: a classifier's when its class changes. An
    error, such as a depth's, has to rise to `1 / (1 - lost_share)` of its clean one. Images without a valid label never
    break. `damage` is above 1 for broken images.
    """

    access: ClassVar = "task"
    warm_start: ClassVar = False
    keeps_wrong_images: ClassVar = True
    survivors_only: ClassVar = True
    steps: ClassVar = 50
    tuning: ClassVar = SEARCH_TUNING | {"lost_share"}

    def passes(self, losses: AttackLosses | None = None) -> Passes:
        """The whole ball, then each halving of the bracket from both starts."""
        whole = len(set(optimisers(self.threat)))
        search = ascent_passes(self.spec.steps).times(whole + 2 * int(math.log2(LEVELS)))
        return search._replace(forwards=search.forwards + LOOKS)

    def perturb(
        self, victim: Victim, images: Tensor, randomness: PerImageRandom, previous: Tensor | None
    ) -> SearchResult:
        spec = self.spec
        lost = lost_score(victim, images, spec.lost_share or LOST_SHARE, spec.eot_samples)
        name = spec.objective or cast(AttackLosses, victim.attack_losses).default
        objective = task_objective(victim, name, images, lost)
        search = Search(self.threat, objective, spec.steps, spec.step_size, spec.random_start, stop=True)
        search = search._replace(draws=spec.eot_samples)
        clean = visited(search, images, everything(images))
        result = _in_whole_ball(clean, search, images, randomness)
        low = torch.zeros(len(images), dtype=torch.int64)
        high, success = torch.where(clean.success.cpu(), 0, LEVELS), result.success.cpu()
        while (left := success & (high - low > 1)).any():
            for level in ((low + high) // 2)[left].unique().tolist():
                rows = (left & ((low + high) // 2 == level)).nonzero()[:, 0].to(images.device)
                won = self._tried(search, images, rows, randomness, result, level)
                high[rows.cpu()[won]], low[rows.cpu()[~won]] = level, level
        return result._replace(damage=result.success + result.damage)

    def _tried(
        self, search: Search, images: Tensor, rows: Tensor, randomness: PerImageRandom, result: SearchResult, level: int
    ) -> Tensor:
        """Which of the rows break at a level; their images become the result."""
        threat = self.threat.resized(level / LEVELS)
        inner = search._replace(threat=threat, step_size=search.step_size * level / LEVELS)
        won = torch.zeros(len(rows), dtype=torch.bool, device=images.device)
        for run, (warm, optimiser) in enumerate(zip((True, False), optimisers(threat), strict=True)):
            index = rows[~won]
            if not len(index):
                break
            clean = images[index]
            start = threat.project(clean + threat.stretch(result.images[index] - clean), clean) if warm else None
            entries = Entries(index, torch.full_like(index, run))
            found = optimiser(inner, clean, entries, randomness.named(str(level)), start)
            for value, new in zip(result.values, found.values, strict=True):
                value[index[found.success]] = new[found.success]
            won[~won] = found.success
        return won.cpu()


def optimisers(threat: Threat) -> tuple[Optimiser, Optimiser]:
    """What searches a ball from each start: Auto-PGD; under L1, where its steps change values alike, also PGD."""
    return (apgd, short_steps) if isinstance(threat, L1) else (apgd, apgd)


def short_steps(
    search: Search, images: Tensor, entries: Entries, randomness: PerImageRandom, start: Tensor | None
) -> SearchResult:
    """PGD with a quarter of the step: with constant steps it ends about half a step beside the best image."""
    return sign_gradient(search._replace(step_size=search.step_size / 4), images, entries, randomness, start)


def broken(damage: Tensor) -> Tensor:
    """Which images lost what they had to, (B,), by the damage that `MinEps` gives them."""
    return damage >= 1


def _in_whole_ball(clean: SearchResult, search: Search, images: Tensor, randomness: PerImageRandom) -> SearchResult:
    """The clean images where they are broken already, and what the whole ball makes of the others."""
    result = SearchResult(*(value.clone() for value in clean.values))
    for run, optimiser in enumerate(dict.fromkeys(optimisers(search.threat))):
        index = (~result.success).nonzero()[:, 0]
        if not len(index):
            break
        entries = Entries(index, torch.full_like(index, run))
        found = optimiser(search, images[index], entries, randomness.named(str(LEVELS)), None)
        for value, new in zip(result.values, found.values, strict=True):
            value[index] = new
    return result
