"""APGD that begins in a larger ball and ends in the one asked for."""

from torch import Tensor

from robustprobe.attacks._apgd import apgd
from robustprobe.attacks._search import Entries, PerImageRandom, Search, SearchResult

STAGES = ((2.0, 0.3), (1.5, 0.3), (1.0, 0.4))


def staged_apgd(
    search: Search, images: Tensor, entries: Entries, randomness: PerImageRandom, start: Tensor | None
) -> SearchResult:
    """APGD at 2, 1.5 and 1 eps for 30, 30 and 40 % of the steps, each from the last one (Croce et al., ECCV 2024).

    Only images of the last stage, which are inside the ball asked for, count. A warm start skips the larger balls.
    """
    if start is None:
        for factor, share in STAGES[:-1]:
            steps = int(share * search.steps)
            if steps:
                threat = search.threat.resized(factor)
                wide = search._replace(threat=threat, steps=steps, last=False, stop=False)
                if start is not None:
                    start = threat.project(start, images)
                start = apgd(wide, images, entries, randomness, start).images
        if start is not None:
            start = search.threat.project(start, images)
            search = search._replace(steps=max(1, round(STAGES[-1][1] * search.steps)))
    return apgd(search, images, entries, randomness, start)
