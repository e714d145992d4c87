"""How the heads of a task are fitted."""

from typing import Literal

from robustprobe.core.spec_base import Spec
from robustprobe.core.types import HeadDesign

Optimiser = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "linear", "cosine"]
Augment = Literal["none", "flip", "resized-crop", "pad-crop", "scale-crop", "crop"]


class TaskRecipe(Spec):
    """How the heads of one task are fitted. `steps`, where given, stands in for epochs; `warmup` counts steps.

    `gradient_weight` weighs gradient matching beside the loss of depth.
    """

    optimiser: Optimiser = "adamw"
    learning_rates: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    batch_size: int = 64
    epochs: int = 20
    steps: int | None = None
    warmup: int = 0
    schedule: Schedule = "cosine"
    augment: Augment = "none"
    gradient_weight: float = 0.0
    label_stride: int = 4
    clip: float | None = None
    designs: tuple[HeadDesign, ...] = (HeadDesign(),)

    @property
    def layers(self) -> int:
        """Blocks that a candidate reads at most."""
        return max(design.layers for design in self.designs)
