"""The values that pass between rooms."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Features(NamedTuple):
    """What an encoder says of a batch: `cls` (B, D) and `patches` (B, D, h, w)."""

    cls: Tensor
    patches: Tensor


class Widths(NamedTuple):
    """Channels of the class token and of each patch token."""

    cls: int
    patch: int


class Sample(NamedTuple):
    """One image of a dataset.

    `image` is (3, H, W) float32 in [0, 1] on the 8-bit grid; `targets` maps a task to its label: classification a
    scalar int64, segmentation (h, w) int64, depth (h, w) float32 in metres with 0 where there is no valid depth.
    """

    id: str
    image: Tensor
    targets: dict[str, Tensor]


class Batch(NamedTuple):
    """Samples stacked: ids, images (B, 3, H, W), and targets with a leading batch axis."""

    ids: list[str]
    images: Tensor
    targets: dict[str, Tensor]


@dataclass(frozen=True)
class LabelSpace:
    """What the labels of one task mean in one dataset. Depths are in metres."""

    classes: tuple[str, ...] = ()
    ignore_index: int = 255
    min_depth: float = 1e-3
    max_depth: float = 10.0
