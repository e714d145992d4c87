"""K-means (Lloyd 1982) from k-means++ starts (Arthur and Vassilvitskii 2007), the same for the same points."""

import torch
from torch import Tensor

ROUNDS = 50


def k_means(points: Tensor, count: int) -> Tensor:
    """Centres (count, D) of points (N, D); a cluster that loses all its points keeps its centre."""
    centres = _spread_start(points, count)
    nearest = torch.full((len(points),), -1, device=points.device)
    for _ in range(ROUNDS):
        before, nearest = nearest, torch.cdist(points, centres).argmin(1)
        if torch.equal(before, nearest):
            break
        sizes = torch.bincount(nearest, minlength=count)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
    return centres


def _spread_start(points: Tensor, count: int) -> Tensor:
    """Points drawn one after another with a chance in proportion to the squared distance to the nearest one drawn."""
    generator = torch.Generator().manual_seed(0)
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    distance = torch.full((len(points),), torch.inf, dtype=torch.float64)
    for _ in range(count - 1):
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1).double().cpu())
        # Where all points are drawn or equal, any one does.
        weights = distance if bool(distance.sum() > 0) else torch.ones_like(distance)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
    return points[chosen]
