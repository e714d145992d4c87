"""Training data of heads: features extracted once, or computed in each epoch from augmented images."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustprobe.core.errors import UserError
from robustprobe.core.types import Features, Sample
from robustprobe.core.views import Size, View
from robustprobe.datasets import Dataset, batches
from robustprobe.probing.augment import Augmentation
from robustprobe.tasks import fit_labels

CHUNK = 64
MOST_BATCH_EFFECT = 0.05
"""Far above rounding in 16 bits and quantised activations, far below statistics over a batch."""
# Larger features are kept in a file instead of memory.
MOST_IN_MEMORY = 4 * 2**30
Count = Callable[[int, int], None]


class FeatureBatch(NamedTuple):
    """Features of a batch of images, their labels, and the size (H, W) of the head's output."""

    features: Features
    target: Tensor
    size: Size


class FeatureSet(NamedTuple):
    """Frozen features of N images: cls (N, D), patches (N, D, h, w), labels by task and their size."""

    cls: Tensor
    patches: Tensor
    targets: Mapping[str, Tensor]
    size: Size

    def part(self, index: Tensor, task: str, device: torch.device) -> FeatureBatch:
        """The features of the images at `index`, on a device."""
        features = Features(self.cls[index].to(device), self.patches[index].to(device))
        return FeatureBatch(features, self.targets[task][index].to(device), self.size)

    def parts(self, task: str, device: torch.device) -> Iterator[FeatureBatch]:
        """All features, in small batches."""
        for index in torch.arange(len(self.cls)).split(CHUNK):
            yield self.part(index, task, device)

    def epoch(self, task: str, order: Tensor, batch_size: int, device: torch.device) -> Iterator[FeatureBatch]:
        """Batches in the given order, without a last batch of one image, on which BatchNorm cannot be trained."""
        for index in order.split(batch_size):
            if not len(index) < 2 <= len(order):
                yield self.part(index, task, device)


@torch.no_grad()
def extract(
    encoder: Any, view: View, data: Dataset, stride: int, device: torch.device, notify: Count = lambda d, t: None
) -> FeatureSet:
    """Features of every image of a dataset with one image size, and label maps at 1/`stride` of it."""
    kept: FeatureSet | None = None
    done = 0
    for batch in batches(data, CHUNK):
        features = view.features(encoder, batch.images.to(device))
        if kept is None:
            check_one_by_one(encoder, view, batch.images.to(device), features)
        size = label_size((batch.images.shape[-2], batch.images.shape[-1]), stride)
        targets = {task: fit_labels(target, size) for task, target in batch.targets.items()}
        kept = kept or _empty(len(data), features, targets, size)
        where = slice(done, done + len(batch.ids))
        kept.cls[where], kept.patches[where] = features.cls.cpu(), features.patches.cpu()
        for task, target in targets.items():
            kept.targets[task][where] = target
        done += len(batch.ids)
        notify(done, len(data))
    if kept is None:
        raise ValueError("a dataset must not be empty")
    return kept


def check_one_by_one(encoder: Any, view: View, images: Tensor, together: Features) -> None:
    """Whether an image has the features alone that it has among others; attacks on a CPU show images one by one.

    Features that differ from call to call are let pass: that is asked of the model once it is attacked.

    Raises:
        UserError: it has not.
    """
    if len(images) < 2:
        return
    # The first part of the first image, where a view cuts images into several.
    first, alone = (Features(*(part[:1] for part in f)) for f in (together, view.features(encoder, images[:1])))
    gap = _gap(first, alone)
    # NaN is told of by what judges the model.
    if not gap > MOST_BATCH_EFFECT or _gap(together, view.features(encoder, images)) > 0:
        return
    raise UserError(
        f"{encoder.card.name}: features of an image depend on the other images of its batch; alone they differ by "
        f"{gap:.0%} of the largest. Heads would be fitted on other features than those that are attacked. Take each "
        "image by itself: no statistics over the batch in `features`."
    )


def _gap(first: Features, second: Features) -> float:
    """The largest difference, relative to the largest feature."""
    pairs = zip(first, second, strict=True)
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) for a, b in pairs)


def label_size(size: Size, stride: int) -> Size:
    """(H, W) of label maps at 1/`stride` of the image resolution."""
    return max(1, size[0] // stride), max(1, size[1] // stride)


def kept_bytes(count: int, floats: int) -> int:
    """Bytes that the features of `count` images take, in memory or on disk."""
    return 4 * count * floats


def _empty(count: int, features: Features, targets: Mapping[str, Tensor], size: Size) -> FeatureSet:
    def like(tensor: Tensor) -> Tensor:
        shape = (count, *tensor.shape[1:])
        if tensor.is_floating_point() and kept_bytes(count, tensor[0].numel()) > MOST_IN_MEMORY:
            return _on_disk(shape)
        return torch.empty(shape, dtype=tensor.dtype)

    return FeatureSet(
        like(features.cls), like(features.patches), {task: like(target) for task, target in targets.items()}, size
    )


def _on_disk(shape: tuple[int, ...]) -> Tensor:
    """A float32 tensor in a temporary file, which is deleted with the tensor."""
    folder = Path(os.environ.get("TMPDIR") or tempfile.gettempdir())
    with tempfile.NamedTemporaryFile(dir=folder, prefix="robustprobe-features-") as file:
        return torch.from_numpy(np.memmap(file.name, dtype=np.float32, mode="w+", shape=shape))


class ShownImages(NamedTuple):
    """Images (B, 3, H, W) of an epoch as a head in training would see them, with ids, labels and size of its output."""

    ids: list[str]
    images: Tensor
    target: Tensor
    size: Size
    epoch: int


class Streamed(NamedTuple):
    """Images that are read, augmented and encoded in every epoch, with the memory of one batch."""

    encoder: Any
    view: View
    data: Dataset
    augmentation: Augmentation
    stride: int

    @torch.no_grad()
    def epoch(
        self,
        task: str,
        order: Tensor,
        batch_size: int,
        device: torch.device,
        epoch: int,
        attack: Callable[[ShownImages], Tensor] | None = None,
    ) -> Iterator[FeatureBatch]:
        """Batches in the given order; a batch ends early if the next image has another size.

        Args:
            attack: changes the images of a batch before they are encoded.
        """
        change = partial(self._seen, epoch=epoch)
        for batch in batches(self.data, batch_size, order=order.tolist(), change=change):
            target = batch.targets[task]
            if len(batch.ids) < 2 <= len(order) and target.ndim == 1:
                continue
            whole = self.view.part_size((batch.images.shape[-2], batch.images.shape[-1]))
            size = label_size(whole, self.stride)
            target = fit_labels(self._padded(target, whole), size).to(device)
            images = batch.images.to(device)
            if attack is not None:
                images = attack(ShownImages(batch.ids, images, target, size, epoch))
            yield FeatureBatch(self.view.features(self.encoder, images), target, size)

    def _seen(self, sample: Sample, epoch: int) -> Sample:
        return self.augmentation(sample, epoch)

    def _padded(self, target: Tensor, size: Size) -> Tensor:
        """Label maps (B, h, w) padded with the ignored label where the view pads the image."""
        if target.ndim == 1 or target.shape[-2:] == size:
            return target
        down, along = (wanted - has for wanted, has in zip(size, target.shape[-2:], strict=True))
        pad = (along // 2, along - along // 2, down // 2, down - down // 2)
        return F.pad(target, pad, value=self.augmentation.task.no_label)
