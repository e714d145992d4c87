"""Projected gradient ascent with steps of one size."""

import torch
from torch import Tensor

from robustprobe.attacks._search import Best, Entries, PerImageRandom, Search, SearchResult


def sign_gradient(
    search: Search, images: Tensor, entries: Entries, randomness: PerImageRandom, start: Tensor | None
) -> SearchResult:
    """PGD (Madry et al. 2018): `x <- project(x + step_size * direction)`, the sign of the gradient under Linf.

    Keeps, entry by entry, the visited iterate of most harm, the start included; or the last one, on request.
    """
    current = search.start(images, entries, randomness) if start is None else start
    best, index = Best(current, search), torch.arange(len(images), device=images.device)
    for step in range(search.steps):
        judged, gradient = search.gradient(current, entries, step)
        best.visit(index, current, judged, step, gradient)
        if search.stop and judged.success.any():
            left = (~judged.success).nonzero()[:, 0]
            index, images, entries = index[left], images[left], entries.part(left)
            current, gradient = current[left], gradient[left]
            if not len(left):
                return best.outcome()
        current = search.threat.project(search.threat.ascend(current, gradient, search.step_size), images)
    with torch.no_grad():
        best.visit(index, current, search.judge(current, entries, search.steps), search.steps)
    return best.outcome()
