"""A quick look at a student on a few held-out images, while it is trained."""

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
    """How far features lie, 1 being as far as those of two different images are on average.

    `drift`: the student's from the teacher's, without an attack. `cls` and `patch`: the student's under EmbedAttack
    from its own clean ones.
    """

    drift: float
    cls: float
    patch: float


@final
class DriftMonitor:
    """The same images and random starts at every look."""

    def __init__(self, teacher: Encoder, part: ImageBatch, eps: float, seed: int) -> None:
        self.teacher, self.images, self.eps = teacher, part.images, eps
        self.ids, self.seed = part.ids, seed

    def look(self, student: Encoder) -> FeatureDrift:
        """Measure a student whose parameters ask for no gradient."""
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
    """Mean distance of the features of an image and those of the next."""
    found = distance(Features(*(f.roll(1, 0) for f in features)), features).mean()
    return found.clamp(min=torch.finfo(found.dtype).tiny)
