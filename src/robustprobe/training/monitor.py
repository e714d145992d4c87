"""Feature drift of a student on a few held-out images, clean and under EmbedAttack, measured during training."""

from collections.abc import Callable
from typing import NamedTuple, final

import torch
from torch import Tensor

from robustprobe.core.threat import image_generator
from robustprobe.core.types import Features
from robustprobe.defences import ascend, linf
from robustprobe.encoders import Encoder
from robustprobe.losses.embedding import class_distance, embedding_distance, patch_distance
from robustprobe.training.data import ImageBatch

STEPS = 10
IMAGES = 16


class FeatureDrift(NamedTuple):
    """Distances between features, as multiples of the mean distance between two different images.

    `drift`: student and teacher on clean images. `cls` and `patch`: the student's tokens on clean images and on images
    under EmbedAttack.
    """

    drift: float
    cls: float
    patch: float


@final
class DriftMonitor:
    """Measures feature drift, always on the same images with the same random starts."""

    def __init__(self, teacher: Encoder, part: ImageBatch, eps: float, seed: int) -> None:
        self.teacher, self.images, self.eps = teacher, part.images, eps
        self.ids, self.seed = part.ids, seed

    def look(self, student: Encoder) -> FeatureDrift:
        """Drift of a student whose parameters need no gradient."""
        with torch.no_grad():
            own, clean = student(self.images), self.teacher(self.images)
        moved = ascend(
            lambda images, progress: embedding_distance(student(images), own),
            self.images,
            [image_generator(self.seed, identity, "look") for identity in self.ids],
            linf(self.eps, STEPS),
        )
        with torch.no_grad():
            attacked = student(moved)
        drift = embedding_distance(own, clean).mean() / _spread(clean, embedding_distance)
        cls = class_distance(attacked, own).mean() / _spread(own, class_distance)
        patch = patch_distance(attacked, own).mean() / _spread(own, patch_distance)
        return FeatureDrift(*(round(float(value), 5) for value in (drift, cls, patch)))


def _spread(features: Features, distance: Callable[[Features, Features], Tensor]) -> Tensor:
    """Mean distance between features of an image and of the next one."""
    found = distance(Features(*(f.roll(1, 0) for f in features)), features).mean()
    return found.clamp(min=torch.finfo(found.dtype).tiny)
