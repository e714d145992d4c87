"""The rules of Auto-PGD under L1: steps in few pixel values, in how many as the best iterate needs."""

from typing import cast, final

import torch
from torch import Tensor

from robustprobe.attacks._apgd_steps import State, StepRule
from robustprobe.core.threat import L1, Threat, over_image

FIRST_SHARE = 0.2
CHECK = 0.04
SPARSER = 0.95
REDUCTION = 1.5
LEAST_STEP = 0.1


@final
class AdaptiveSparsity(StepRule):
    """L1 (Croce & Hein 2021, algorithm 1), with the constants of its authors.

    A step has the L1 length of the step size, eps at first, and changes a share of the pixel values, 20 % at first,
    those of largest gradient. At checkpoints, every 4 % of the steps, that share becomes 2/3 of what the best iterate
    changed. Where it changed at least 5 % fewer values than at the last checkpoint, the search goes on from it with
    steps of eps; elsewhere steps become shorter by 2/3, down to eps / 10. There is no momentum.
    """

    def begun(self, state: State, images: Tensor, eps: float, drawn: bool) -> State:
        changed, count = _changed(state.current, images), images[0].numel()
        share = torch.full_like(changed, FIRST_SHARE) if drawn else changed / (REDUCTION * count)
        noted = torch.full_like(changed, count) if drawn else changed
        return state._replace(size=torch.full_like(changed, eps, dtype=images.dtype), share=share, noted=noted)

    def moved(self, threat: Threat, images: Tensor, state: State, step: int) -> State:
        ball = cast(L1, threat)
        tried = ball.ascend_sparse(state.current, state.gradient, over_image(state.size), state.share)
        return state._replace(current=ball.project(tried, images), old=state.current)

    def checked(self, threat: Threat, images: Tensor, state: State, interval: int) -> State:
        changed = _changed(state.best, images)
        sparser = changed / state.noted < SPARSER
        shorter = (state.size / REDUCTION).clamp(min=LEAST_STEP * threat.eps)
        return state.restored(sparser)._replace(
            size=torch.where(sparser, threat.eps, shorter),
            share=changed / (REDUCTION * images[0].numel()),
            noted=changed,
        )

    def interval(self, steps: int, last: int | None) -> int:
        return max(int(CHECK * steps), 1)


def _changed(iterate: Tensor, images: Tensor) -> Tensor:
    """How many pixel values differ from the image, (n,)."""
    return (iterate != images).flatten(1).sum(1).to(images.dtype)
