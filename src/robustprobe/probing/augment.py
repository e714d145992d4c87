"""Random augmentation of train images and their label maps, which depends on seed, image and epoch alone."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from robustprobe.core.resize import resized
from robustprobe.core.threat import image_generator
from robustprobe.core.types import Sample
from robustprobe.core.views import Size
from robustprobe.tasks import Augment, Task

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
SCALE = (0.5, 2.0)
PADDING = 4 / 32


class Augmentation:
    """Random augmentation of images (3, H, W) and their labels; crops have the `size` (H, W)."""

    def __init__(self, kind: Augment, size: Size, task: Task, seed: int) -> None:
        self.kind, self.size, self.task, self.seed = kind, size, task, seed

    def __call__(self, sample: Sample, epoch: int) -> Sample:
        """The augmented sample of an epoch; label maps have the size of the image."""
        generator = image_generator(self.seed, sample.id, "augment", epoch)
        target = sample.targets[self.task.name]
        image, target = sample.image, self._fitted(target, (sample.image.shape[-2], sample.image.shape[-1]))
        image, target = self._changed(image, target, lambda: float(torch.rand(1, generator=generator)))
        return Sample(sample.id, image, {self.task.name: target})

    def _fitted(self, target: Tensor, size: Size) -> Tensor:
        return self.task.fit_labels(target[None], size)[0]

    def _changed(self, image: Tensor, target: Tensor, draw: Callable[[], float]) -> tuple[Tensor, Tensor]:
        if self.kind == "none":
            return image, target
        if draw() < 0.5:
            image, target = image.flip(-1), self.task.flip(target)
        if self.kind == "resized-crop":
            return self._resized_crop(image, draw), target
        if self.kind == "pad-crop":
            border = round(PADDING * self.size[0])
            image = F.pad(image, (border,) * 4)
        if self.kind == "scale-crop":
            image = scaled(image, SCALE[0] + (SCALE[1] - SCALE[0]) * draw())
            target = self._fitted(target, (image.shape[-2], image.shape[-1]))
        if self.kind in ("pad-crop", "scale-crop", "crop"):
            return self._crop(image, target, draw)
        return image, target

    def _resized_crop(self, image: Tensor, draw: Callable[[], float]) -> Tensor:
        height, width = image.shape[-2:]
        area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * draw())
        ratio = math.exp(math.log(RATIO[0]) + (math.log(RATIO[1]) - math.log(RATIO[0])) * draw())
        h, w = min(height, max(1, round((area / ratio) ** 0.5))), min(width, max(1, round((area * ratio) ** 0.5)))
        top, left = int(draw() * (height - h + 1)), int(draw() * (width - w + 1))
        return resized(image[:, top : top + h, left : left + w], self.size)

    def _crop(self, image: Tensor, target: Tensor, draw: Callable[[], float]) -> tuple[Tensor, Tensor]:
        missing = [max(0, wanted - has) for wanted, has in zip(self.size, image.shape[-2:], strict=True)]
        pad = (0, missing[1], 0, missing[0])
        image = F.pad(image, pad)
        top, left = (int(draw() * (has - wanted + 1)) for wanted, has in zip(self.size, image.shape[-2:], strict=True))
        where = (..., slice(top, top + self.size[0]), slice(left, left + self.size[1]))
        if target.ndim:
            target = F.pad(target, pad, value=self.task.no_label)[where]
        return image[where], target


def scaled(image: Tensor, factor: float) -> Tensor:
    """An image (3, H, W) resized by `factor`."""
    height, width = (max(1, round(side * factor)) for side in image.shape[-2:])
    return resized(image, (height, width))
