"""The usual eps of each norm, and what is to be said of one that is far from it."""

import math
from typing import NamedTuple

from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.corruption_names import IN_PIXELS, MOST_SIDES_APART
from robustprobe.core.corruption_names import REFERENCE_SIDE as CORRUPTION_SIDE
from robustprobe.core.errors import unknown_name
from robustprobe.core.sizes import AREA, SEVERITY, SizeUnit, format_eps

REFERENCE_SIDE = 32
# As a share of the usual eps: below it attacks find next to nothing, whatever the model.
LEAST_SHARE = 0.1
# In Linf a ball of this radius around mid-grey is the whole box; in other norms the same root mean square.
MOST_CHANGE = 0.5
CHANNELS = 3


class UsualEps(NamedTuple):
    """The eps that papers use at 32 x 32 pixels, and the power of the image's side with which it grows."""

    at_32: float
    power: int


USUAL: dict[SizeUnit, UsualEps] = {"linf": UsualEps(8 / 255, 0), "l2": UsualEps(0.5, 1), "l1": UsualEps(12.0, 2)}
"""Linf 8/255 and L2 0.5: RobustBench (Croce et al. 2021), on CIFAR-10; L1 12: Croce and Hein 2021, there too. An L2 eps
grows with the side of an image and an L1 eps with its square, so that the mean change of a pixel stays the same.
"""


def image_side(size: tuple[int, int]) -> float:
    """Side of the square with as many pixels as an image of size (H, W)."""
    return math.sqrt(size[0] * size[1])


def default_eps(norm: SizeUnit, size: tuple[int, int]) -> float:
    """The usual eps of a norm on images of size (H, W), to three significant digits. Raises UserError for no norm."""
    if norm not in USUAL:
        raise unknown_name("norm", str(norm), USUAL)
    usual = USUAL[norm]
    if not usual.power:
        return usual.at_32
    return float(f"{usual.at_32 * (image_side(size) / REFERENCE_SIDE) ** usual.power:.3g}")


def implausible_eps(attack: AttackSpec, size: tuple[int, int]) -> str:
    """Why an eps is implausible on images of size (H, W), in a sentence; empty where it is plausible, and at eps 0,
    where there is no attack.
    """
    if attack.eps == 0:
        return ""
    if attack.norm == SEVERITY:
        return _implausible_severity(attack, size)
    if attack.norm == AREA:
        return ""
    usual = default_eps(attack.norm, size)
    named = f"{attack.norm} eps {format_eps(attack.eps, attack.norm)}"
    instead = f"usual at {size[0]} x {size[1]} pixels is {format_eps(usual, attack.norm)}"
    if attack.eps < LEAST_SHARE * usual:
        return f"{named} is too small to matter; {instead}"
    if attack.eps >= _grey(attack.norm, size):
        return f"{named} is enough to turn any image grey, so nothing can be robust to it; {instead}"
    return ""


def _implausible_severity(attack: AttackSpec, size: tuple[int, int]) -> str:
    apart = image_side(size) / CORRUPTION_SIDE
    if attack.objective not in IN_PIXELS or 1 / MOST_SIDES_APART < apart < MOST_SIDES_APART:
        return ""
    means = "harsher" if apart < 1 else "milder"
    return (
        f"the lengths of {attack.objective} are pixels of {CORRUPTION_SIDE} x {CORRUPTION_SIDE} images: at "
        f"{size[0]} x {size[1]} it is {means} than published, so compare it at this size only"
    )


def _grey(norm: SizeUnit, size: tuple[int, int]) -> float:
    """The size of a change of every pixel value by `MOST_CHANGE`."""
    power = USUAL[norm].power
    return MOST_CHANGE * (math.sqrt(CHANNELS) * image_side(size)) ** power
