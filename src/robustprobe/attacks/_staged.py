"""APGD that begins in a larger ball and ends in the one asked for."""

from torch import Tensor

from robustprobe.attacks._apgd import apgd
from robustprobe.attacks._search import (
    Entries,
    Passes,
    PerImageRandom,
    Search,
    SearchResult,
    all_passes,
    ascent_passes,
)

STAGES = ((2.0, 0.3), (1.5, 0.3), (1.0, 0.4))


def staged_apgd(
    search: Search, images: Tensor, entries: Entries, randomness: PerImageRandom, start: Tensor | None
) -> SearchResult:
    """APGD at 2, 1.5 and 1 eps for 30, 30 and 40 % of the steps, each from the last one (Croce et al., ECCV 2024).

    Only images of the last stage, which are inside the ball asked for, count. A warm start skips the larger balls.
    """
    if start is None:
        *wide_steps, steps = stage_steps(search.steps)
        for (factor, _), stage in zip(STAGES, wide_steps, strict=False):
            threat = search.threat.resized(factor)
            wide = search._replace(threat=threat, steps=stage, last=False, stop=False)
            if start is not None:
                start = threat.project(start, images)
            start = apgd(wide, images, entries, randomness, start).images
        if start is not None:
            start = search.threat.project(start, images)
        search = search._replace(steps=steps)
    return apgd(search, images, entries, randomness, start)


def stage_steps(steps: int) -> list[int]:
    """Steps of each stage; all of them in the last one where they do not suffice for three."""
    wide = [int(share * steps) for _, share in STAGES[:-1]]
    return [*wide, max(1, round(STAGES[-1][1] * steps))] if all(wide) else [steps]


def staged_passes(steps: int) -> Passes:
    """The most passes per image, be it from a random or from a warm start."""
    staged, warm = all_passes(map(ascent_passes, stage_steps(steps))), ascent_passes(steps)
    return Passes(max(staged.forwards, warm.forwards), max(staged.backwards, warm.backwards))
