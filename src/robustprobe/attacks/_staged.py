"""APGD in stages, from larger balls down to the ball of the threat."""

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
from robustprobe.core.threat import L1

STAGES = ((2.0, 0.3), (1.5, 0.3), (1.0, 0.4))
L1_FACTORS = (3.0, 2.0, 1.0)
"""Under L1 (Croce & Hein 2021): for as many steps as in `STAGES`."""


def staged_apgd(
    search: Search, images: Tensor, entries: Entries, randomness: PerImageRandom, start: Tensor | None
) -> SearchResult:
    """APGD at 2, 1.5 and 1 eps for 30, 30 and 40 % of the steps, each from the one before (Croce et al., ECCV 2024).

    Under L1 at 3, 2 and 1 eps (Croce & Hein 2021).

    Only images of the last stage, inside the ball of the threat, count. With a warm start the larger balls are skipped.
    """
    if start is None:
        *wide_steps, steps = stage_steps(search.steps)
        factors = L1_FACTORS if isinstance(search.threat, L1) else [factor for factor, _ in STAGES]
        for factor, stage in zip(factors, wide_steps, strict=False):
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
    """Steps of each stage; all in the last one if there are too few for three."""
    wide = [int(share * steps) for _, share in STAGES[:-1]]
    return [*wide, max(1, round(STAGES[-1][1] * steps))] if all(wide) else [steps]


def staged_passes(steps: int) -> Passes:
    """The maximum of passes per image, from a random or a warm start."""
    staged, warm = all_passes(map(ascent_passes, stage_steps(steps))), ascent_passes(steps)
    return Passes(max(staged.forwards, warm.forwards), max(staged.backwards, warm.backwards))
