"""SegPGD on surrogate heads fitted without labels of the task: needs the encoder and the image only"""

from typing import ClassVar, final

import torch
from torch import Tensor

from robustprobe.attacks._phases import GradientAttack
from robustprobe.attacks._search import Entries, LossValues, Objective
from robustprobe.attacks.base import Victim
from robustprobe.core.errors import UserError
from robustprobe.core.sums import mean_of
from robustprobe.losses.segmentation import segmentation_pixels, segpgd

STRIDE = 4
NOTHING_IGNORED = -1


@final
class Surrogate(GradientAttack):
    """SegPGD against small segmenters of place and colour, whose own answers to the clean image are the labels.

    They are fitted on generated scenes, so the attack needs the encoder and the image only: docs/concepts/attacks.md.
    """

    access: ClassVar = "encoder"

    def objective(self, victim: Victim, images: Tensor) -> Objective:
        if self.spec.objective:
            raise UserError(f"surrogate has its own objective; leave :{self.spec.objective} out.")
        if victim.surrogate_heads is None:
            raise UserError("surrogate needs an encoder to fit its own heads on; give an Encoder or a Model.")
        heads = victim.surrogate_heads((images.shape[-2], images.shape[-1]))
        size = (max(1, images.shape[-2] // STRIDE), max(1, images.shape[-1] // STRIDE))
        with torch.no_grad():
            features = victim.function(images)
            answers = [head(features, size).argmax(1) for head in heads]

        def judge(x: Tensor, entries: Entries, progress: float) -> LossValues:
            seen = victim.function(x)
            pixels = [
                segmentation_pixels(head(seen, size), answer[entries.rows], NOTHING_IGNORED)
                for head, answer in zip(heads, answers, strict=True)
            ]
            value = mean_of([segpgd(p, progress) for p in pixels])
            # At progress 1 right and wrong pixels weigh alike, so that steps can be compared.
            step_loss = mean_of([segpgd(p, 1.0) for p in pixels])
            return LossValues(value, step_loss, step_loss, torch.zeros_like(value, dtype=torch.bool))

        return judge
