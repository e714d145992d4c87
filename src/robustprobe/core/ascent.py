"""Projected gradient ascent (PGD, Madry et al. 2018): the loop that attacks and defences share."""

from collections.abc import Callable

from torch import Tensor

from robustprobe.core.threat import Threat

Gradient = Callable[[Tensor, int], tuple[Tensor, Tensor | None]]
"""Iterates (n, 3, H, W) and the number of the step to a gradient (n, 3, H, W) of what is raised, and the indices of
the entries that go on; None: all of them."""


def projected_ascent(
    threat: Threat,
    images: Tensor,
    start: Tensor,
    gradient: Gradient,
    *,
    steps: int,
    step_size: float,
    momentum: float = 0.0,
) -> Tensor:
    """The last iterate of `x <- project(x + step_size * direction)`, the sign of the gradient under Linf.

    Args:
        images: clean images (n, 3, H, W), the centres of the balls.
        start: where to begin, (n, 3, H, W).
        gradient: may let entries go; they are missing in the result.
        momentum: share of the earlier signs in the direction of a step, 0: none. Not for entries that leave.
    """
    current, velocity = start, None
    for step in range(steps):
        direction, left = gradient(current, step)
        if left is not None:
            current, images, direction = current[left], images[left], direction[left]
            if not len(left):
                break
        if momentum:
            velocity = direction.sign() if velocity is None else momentum * velocity + direction.sign()
            direction = velocity
        current = threat.project(threat.ascend(current, direction, step_size), images)
    return current
