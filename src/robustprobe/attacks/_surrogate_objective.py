"""SegPGD's loss on surrogate heads, whose own answers to the clean image are the labels."""

import torch
from torch import Tensor

from robustprobe.attacks._search import Entries, LossValues, Objective
from robustprobe.attacks.base import Victim
from robustprobe.core.errors import UserError
from robustprobe.core.sums import mean_of
from robustprobe.losses.segmentation import segmentation_pixels, segpgd

STRIDE = 4
NOTHING_IGNORED = -1


def surrogate_objective(victim: Victim, name: str, images: Tensor) -> Objective:
    """The objective that changes the answers of surrogate heads, for the attack `name`.

    Raises:
        UserError: a victim without surrogate heads.
    """
    if victim.surrogate_heads is None:
        raise UserError(f"{name} needs an encoder to fit its own heads on; give an Encoder or a Model.")
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
