"""PGD with a constant step size, keeping the best iterate per image."""

import torch
from torch import Tensor

from robustprobe.attacks._search import Best, Entries, PerImageRandom, Search, SearchResult
from robustprobe.core.ascent import projected_ascent


def sign_gradient(
    search: Search, images: Tensor, entries: Entries, randomness: PerImageRandom, start: Tensor | None
) -> SearchResult:
    """PGD (Madry et al. 2018): `x <- project(x + step_size * direction)`, the sign of the gradient under Linf.

    Keeps per entry the visited iterate with most damage, including the start; with `iterate: last` the last one.
    """
    begin = search.start(images, entries, randomness) if start is None else start
    best, index = Best(begin, search), torch.arange(len(images), device=images.device)

    def gradient(current: Tensor, step: int) -> tuple[Tensor, Tensor | None]:
        nonlocal index, entries
        judged, found = search.gradient(current, entries, step)
        best.visit(index, current, judged, step, found)
        if not (search.stop and judged.success.any()):
            return found, None
        left = (~judged.success).nonzero()[:, 0]
        index, entries = index[left], entries.part(left)
        return found, left

    last = projected_ascent(search.threat, images, begin, gradient, steps=search.steps, step_size=search.step_size)
    if len(last):
        with torch.no_grad():
            best.visit(index, last, search.judge(last, entries, search.steps), search.steps)
    return best.outcome()
