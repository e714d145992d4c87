"""How a model looks at an image: resized, padded, or through sliding windows; and how its answers become one map."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor

from robustprobe.core.resize import resized
from robustprobe.core.types import FeatureDims, Features

Size = tuple[int, int]


@dataclass(frozen=True)
class View(ABC):
    """Images (B, 3, H, W) to the parts an encoder sees, and outputs of parts to an output for each image.

    `layers` is the number of the encoder's last blocks whose features are read, side by side, the last block last.
    """

    layers: int = 1

    @abstractmethod
    def cut(self, images: Tensor) -> Tensor:
        """Parts (B * n, 3, h, w), those of an image next to one another."""

    @abstractmethod
    def part_size(self, size: Size) -> Size:
        """(h, w) of the parts of images of `size`."""

    @abstractmethod
    def join(self, output: Tensor, size: Size) -> Tensor:
        """Outputs of the parts, (B * n, ...), as outputs for images of `size`."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What it does, in words."""

    def pixels(self, size: Size) -> int:
        """Pixels that the encoder is shown of an image of `size`."""
        height, width = self.part_size(size)
        return height * width

    def output_size(self, size: Size) -> Size:
        """(H, W) of output maps for images of `size`."""
        return size

    @final
    def features(self, encoder: Any, images: Tensor) -> Features:
        """Features of every part."""
        parts = self.cut(images)
        if self.layers == 1:
            return cast(Features, encoder(parts))
        return side_by_side(encoder.layers(parts, range(-self.layers, 0)))

    @final
    def embedding(self, encoder: Any, images: Tensor) -> Features:
        """Features of the parts of an image as one: cls (B, n * D), patches (B, D, n * h, w)."""
        return as_one(self.features(encoder, images), len(images))


@final
@dataclass(frozen=True)
class Resized(View):
    """The whole image, at a fixed size; outputs are maps of that size."""

    size: Size = (224, 224)

    @property
    def label(self) -> str:
        return f"resized to {self.size[0]} x {self.size[1]}"

    def cut(self, images: Tensor) -> Tensor:
        return resized(images, self.size)

    def part_size(self, size: Size) -> Size:
        return self.size

    def output_size(self, size: Size) -> Size:
        return self.size

    def join(self, output: Tensor, size: Size) -> Tensor:
        return output


@final
@dataclass(frozen=True)
class Padded(View):
    """The whole image at its own size, its edge repeated on all sides up to a multiple of the patch size."""

    patch: int = 16

    @property
    def label(self) -> str:
        return f"padded to multiples of {self.patch}"

    def cut(self, images: Tensor) -> Tensor:
        return pad_to(images, self.part_size((images.shape[-2], images.shape[-1])))

    def part_size(self, size: Size) -> Size:
        height, width = (-(-side // self.patch) * self.patch for side in size)
        return height, width

    def join(self, output: Tensor, size: Size) -> Tensor:
        return centre(output, size)


@final
@dataclass(frozen=True)
class Windows(View):
    """Square windows of side `window`, `stride` apart, the last ones flush with the edge; logits are averaged.

    Smaller images are padded by repeating their edge. As in mmsegmentation's `slide` mode.
    """

    window: int = 512
    stride: int = 341

    @property
    def label(self) -> str:
        return f"windows of {self.window}, {self.stride} apart"

    def pixels(self, size: Size) -> int:
        return len(self.corners(self._covered(size))) * self.window**2

    def cut(self, images: Tensor) -> Tensor:
        images = pad_to(images, self._covered((images.shape[-2], images.shape[-1])))
        size = (images.shape[-2], images.shape[-1])
        parts = [images[..., y : y + self.window, x : x + self.window] for y, x in self.corners(size)]
        return torch.stack(parts, 1).flatten(0, 1)

    def part_size(self, size: Size) -> Size:
        return self.window, self.window

    def join(self, output: Tensor, size: Size) -> Tensor:
        covered = self._covered(size)
        corners = self.corners(covered)
        parts = output.unflatten(0, (-1, len(corners)))
        total = output.new_zeros(len(parts), *output.shape[1:-2], *covered)
        seen = output.new_zeros(covered)
        for position, (y, x) in enumerate(corners):
            where = (slice(y, y + self.window), slice(x, x + self.window))
            total[..., where[0], where[1]] += parts[:, position]
            seen[where] += 1
        return centre(total / seen, size)

    def corners(self, size: Size) -> list[tuple[int, int]]:
        """Top left corners (y, x) of the windows of images of `size`, each window once."""
        rows, columns = (starts(side, self.window, self.stride) for side in size)
        return [(y, x) for y in rows for x in columns]

    def _covered(self, size: Size) -> Size:
        return max(size[0], self.window), max(size[1], self.window)


def starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows along a side begin."""
    count = max(0, -(-(side - window) // stride)) + 1
    return [min(position * stride, side - window) for position in range(count)]


def pad_to(images: Tensor, size: Size) -> Tensor:
    """Images with their edge repeated up to `size`, as much on one side as on the other."""
    down, along = (wanted - has for wanted, has in zip(size, images.shape[-2:], strict=True))
    if not down and not along:
        return images
    return F.pad(images, (along // 2, along - along // 2, down // 2, down - down // 2), mode="replicate")


def centre(maps: Tensor, size: Size) -> Tensor:
    """The middle of maps (..., H, W): what is left of them once padding is cut off."""
    top, left = ((has - wanted) // 2 for wanted, has in zip(size, maps.shape[-2:], strict=True))
    return maps[..., top : top + size[0], left : left + size[1]]


def side_by_side(layers: Sequence[Features]) -> Features:
    """Features of several layers as one, channel after channel."""
    return Features(torch.cat([f.cls for f in layers], 1), torch.cat([f.patches for f in layers], 1))


def last_layers(features: Features, widths: FeatureDims, count: int) -> Features:
    """The channels of the last `count` layers of features made by `side_by_side`."""
    return Features(features.cls[:, -widths.cls * count :], features.patches[:, -widths.patch * count :])


def as_one(features: Features, images: int) -> Features:
    """Features of n parts an image as those of one part: cls (B, n * D), patches (B, D, n * h, w)."""
    if len(features.cls) == images:
        return features
    cls = features.cls.reshape(images, -1)
    return Features(cls, features.patches.unflatten(0, (images, -1)).transpose(1, 2).flatten(2, 3))
