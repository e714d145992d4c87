"""The nearest point of an L1 ball that is cut by a box, exactly (Croce and Hein 2021, proposition 2.1)."""

import torch
from torch import Tensor


def nearest_sizes(sizes: Tensor, room: Tensor, radius: float) -> Tensor:
    """The values `0 <= z <= room` with sum at most `radius` that are nearest to `sizes`, row by row, (B, n).

    They are `clamp(sizes - t, 0, room)` with the least `t >= 0` that fits. The sum falls with `t` in straight pieces,
    which end where a value leaves its `room` and where it reaches 0; so one sort of these ends finds `t`.

    Args:
        sizes: (B, n), not negative, double precision.
        room: largest values, like `sizes`; infinity where there is no bound.
    """
    whole = torch.minimum(sizes, room)
    ends, order = torch.cat([(sizes - room).clamp(min=0), sizes], 1).sort(1)
    falling = torch.where(order < sizes.shape[1], 1.0, -1.0).to(sizes).cumsum(1)
    lengths = torch.diff(ends, dim=1)
    left = whole.sum(1, keepdim=True) - torch.cumsum(falling[:, :-1] * lengths, 1)
    # The first piece at whose end the sum fits holds t; at the last end every value is 0.
    piece = (left > radius).sum(1, keepdim=True).clamp(max=lengths.shape[1] - 1)
    after, slope = left.gather(1, piece), falling.gather(1, piece)
    over = ends.gather(1, piece + 1) - (radius - after) / slope.clamp(min=1)
    inside = whole.sum(1, keepdim=True) <= radius
    return torch.where(inside, whole, torch.minimum((sizes - over).clamp(min=0), room))
