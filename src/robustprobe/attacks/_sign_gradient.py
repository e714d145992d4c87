"""PGD with a constant step size, keeping the best iterate per image."""

import torch
from torch import Tensor

from robustprobe.attacks._search import Best, Entries, PerImageRandom, Search, SearchResult
from robustprobe.core.ascent import projected_ascent
from robustprobe.core.threat import TINY, over_image


def sign_gradient(
    search: Search, images: Tensor, entries: Entries, randomness: PerImageRandom, start: Tensor | None
) -> SearchResult:
    """PGD (Madry et al. 2018): `x <- project(x + step_size * direction)`, the sign of the gradient under Linf.

    With momentum the direction is that of MI-FGSM (Dong et al. 2018, eq. 6): gradients of L1 norm 1, summed with decay.

    Keeps per entry the visited iterate with most damage, including the start; with `iterate: last` the last one.
    """
    begin = search.start(images, entries, randomness) if start is None else start
    best, index = Best(begin, search), torch.arange(len(images), device=images.device)
    velocity = torch.zeros_like(images)

    def gradient(current: Tensor, step: int) -> tuple[Tensor, Tensor | None]:
        nonlocal index, entries, velocity
        judged, found = search.gradient(current, entries, step)
        best.visit(index, current, judged, step, found)
        if search.smooth:
            found = search.smooth(found)
        if search.momentum:
            # Gradients of different steps differ by orders of magnitude.
            velocity = search.momentum * velocity + found / over_image(found.abs().flatten(1).sum(1).clamp(min=TINY))
            found = velocity
        if not (search.stop and judged.success.any()):
            return found, None
        left = (~judged.success).nonzero()[:, 0]
        index, entries, velocity = index[left], entries.part(left), velocity[left]
        return found, left

    last = projected_ascent(search.threat, images, begin, gradient, steps=search.steps, step_size=search.step_size)
    if len(last):
        with torch.no_grad():
            best.visit(index, last, search.judge(last, entries, search.steps), search.steps)
    return best.outcome()
