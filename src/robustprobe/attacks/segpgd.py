"""SegPGD on the pixel-wise cross-entropy of a segmenter (Gu et al., ECCV 2022)"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe import losses
from robustprobe.attacks._base import Victim
from robustprobe.attacks._gradient import Judged, Objective, SignGradientAttack


@final
class SegPgd(SignGradientAttack):
    """Weighs correct pixels first and wrong ones more and more; iterates are ranked by plain cross-entropy, since the
    weighted losses of two steps cannot be compared.
    """

    sees: ClassVar = "segmentation"

    def objective(self, victim: Victim, images: Tensor) -> Objective:
        target = victim.targets
        assert target is not None

        def judge(x: Tensor, step: int, steps: int) -> Judged:
            pixels = losses.segmentation_pixels(victim.function(x), target, victim.space.ignore_index)
            return Judged(losses.segpgd(pixels, step, steps), losses.segmentation_cross_entropy(pixels))

        return judge
