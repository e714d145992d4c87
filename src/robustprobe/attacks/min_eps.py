"""Smallest eps that changes a classifier's prediction, per image, by bisection with Auto-PGD"""

import math
from typing import ClassVar, final

import torch
from torch import Tensor

from robustprobe.attacks._apgd import apgd
from robustprobe.attacks._phases import SEARCH_TUNING
from robustprobe.attacks._search import (
    Entries,
    Passes,
    PerImageRandom,
    Search,
    SearchResult,
    ascent_passes,
    everything,
    visited,
)
from robustprobe.attacks._task_objectives import task_objective
from robustprobe.attacks.base import LOOKS, Attack, Victim
from robustprobe.core.types import AttackLosses

LEVELS = 64
"""The ball of a broken image is at most eps / LEVELS larger than one in which the attack failed."""


@final
class MinEps(Attack):
    """Returns each image as the smallest ball in which it broke left it, or as the whole ball left it unbroken.

    The size of its perturbation is the number sought, to eps / 64: 0 for images that are wrong from the start. Each
    level is tried from the larger ball's image, drawn into the smaller one, and then from a random start.
    """

    access: ClassVar = "classification"
    warm_start: ClassVar = False
    keeps_wrong_images: ClassVar = True
    survivors_only: ClassVar = True
    steps: ClassVar = 50
    tuning: ClassVar = SEARCH_TUNING

    def passes(self, losses: AttackLosses | None = None) -> Passes:
        """The whole ball, then each halving of the bracket from both starts."""
        search = ascent_passes(self.spec.steps).times(1 + 2 * int(math.log2(LEVELS)))
        return search._replace(forwards=search.forwards + LOOKS)

    def perturb(
        self, victim: Victim, images: Tensor, randomness: PerImageRandom, previous: Tensor | None
    ) -> SearchResult:
        spec = self.spec
        objective = task_objective(victim, spec.objective or "ce", images)
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
        return result

    def _tried(
        self, search: Search, images: Tensor, rows: Tensor, randomness: PerImageRandom, result: SearchResult, level: int
    ) -> Tensor:
        """Which of the rows break at a level; their images become the result."""
        threat = self.threat.resized(level / LEVELS)
        inner = search._replace(threat=threat, step_size=search.step_size * level / LEVELS)
        won = torch.zeros(len(rows), dtype=torch.bool, device=images.device)
        for run, warm in enumerate((True, False)):
            index = rows[~won]
            if not len(index):
                break
            clean = images[index]
            start = threat.project(clean + threat.stretch(result.images[index] - clean), clean) if warm else None
            entries = Entries(index, torch.full_like(index, run))
            found = apgd(inner, clean, entries, randomness.named(str(level)), start)
            for value, new in zip(result.values, found.values, strict=True):
                value[index[found.success]] = new[found.success]
            won[~won] = found.success
        return won.cpu()


def _in_whole_ball(clean: SearchResult, search: Search, images: Tensor, randomness: PerImageRandom) -> SearchResult:
    """The clean images where they are broken already, and what the whole ball makes of the others."""
    result = SearchResult(*(value.clone() for value in clean.values))
    index = (~clean.success).nonzero()[:, 0]
    if len(index):
        entries = Entries(index, torch.zeros_like(index))
        found = apgd(search, images[index], entries, randomness.named(str(LEVELS)), None)
        for value, new in zip(result.values, found.values, strict=True):
            value[index] = new
    return result
