"""Two views of each generated scene, with the place of every pixel in the other view; nothing to download"""

import hashlib
from functools import cached_property, lru_cache
from itertools import zip_longest
from typing import ClassVar, final

import numpy as np
from PIL import Image

from robustprobe.core.types import LabelSpace
from robustprobe.datasets._generated import GeneratedDataset
from robustprobe.datasets._rendering import TwoViews, two_views
from robustprobe.datasets.base import RawSample, Split

TASK = "correspondence"
SIZES: dict[Split, int] = {"val": 500, "test": 1000}


@final
class SceneViews(GeneratedDataset):
    """`val` and `test` are the images of `scenes`, and `train` is a second view of each of them, from a camera that is
    moved, tilted and zoomed. Labels say where the point at a pixel's centre is in the second view, if it is seen there.
    """

    labels: ClassVar = {TASK: LabelSpace()}
    counts: ClassVar = {"train": (sum(SIZES.values()),), **{split: (count,) for split, count in SIZES.items()}}

    def ids(self) -> list[str]:
        return [f"second/{name}" for name in self._scenes] if self.split == "train" else self._own(self.split)

    def rank(self, index: int) -> bytes:
        # Of limited sets the second views are those of the first images.
        return index.to_bytes(8, "big") if self.split == "train" else super().rank(index)

    def read(self, index: int) -> RawSample:
        name = self._scenes[index] if self.split == "train" else self._own(self.split)[index]
        number, views = 1 + self._scenes.index(name), _cached(name, self.side)
        if self.split == "train":
            centre = ((np.arange(self.side) + 0.5) / self.side).astype(np.float32)
            x, y = np.meshgrid(centre, centre)
            label = np.stack([x, y, np.full_like(x, number)])
            return RawSample(Image.fromarray(views.second), {TASK: label})
        return RawSample(
            Image.fromarray(views.first), {TASK: np.concatenate([views.places, views.seen[None] * number])}
        )

    @cached_property
    def _scenes(self) -> list[str]:
        """The scenes in the order of their second views: those that limits of test and val keep come first."""
        test, val = (
            sorted(self._own(split), key=lambda name: hashlib.sha256(name.encode()).digest())
            for split in ("test", "val")
        )
        return [name for pair in zip_longest(test, val) for name in pair if name is not None]

    @staticmethod
    def _own(split: Split) -> list[str]:
        return [f"{split}-{i}" for i in range(SIZES[split])]


@lru_cache(maxsize=4096)
def _cached(identity: str, size: int) -> TwoViews:
    return two_views(identity, size)
