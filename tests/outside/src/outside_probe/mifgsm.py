"""MI-FGSM: sign steps along accumulated gradients (Dong et al., CVPR 2018)"""

from typing import ClassVar, final

import torch
from torch import Tensor

from robustprobe.attacks import (
    Best,
    Entries,
    GradientAttack,
    Objective,
    Optimiser,
    PerImageRandom,
    Search,
    SearchResult,
    Victim,
    default_objective,
)

DECAY = 1.0


def momentum(
    search: Search, images: Tensor, entries: Entries, randomness: PerImageRandom, start: Tensor | None
) -> SearchResult:
    """`g <- decay * g + gradient / |gradient|_1`, then a step along g; keeps the iterate with most damage."""
    current = search.start(images, entries, randomness) if start is None else start
    best, index, velocity = Best(current, search), torch.arange(len(images)), torch.zeros_like(images)
    for step in range(search.steps):
        values, gradient = search.gradient(current, entries, step)
        best.visit(index, current, values, step, gradient)
        size = gradient.abs().flatten(1).sum(1).clamp(min=1e-12)
        velocity = DECAY * velocity + gradient / size[:, None, None, None]
        current = search.threat.project(search.threat.ascend(current, velocity, search.step_size), images)
    with torch.no_grad():
        best.visit(index, current, search.judge(current, entries, search.steps), search.steps)
    return best.outcome()


@final
class MiFgsm(GradientAttack):
    """Raises the default loss of any task."""

    access: ClassVar = "task"

    def optimiser(self) -> Optimiser:
        return momentum

    def objective(self, victim: Victim, images: Tensor) -> Objective:
        return default_objective(victim, self.spec.objective, images)
