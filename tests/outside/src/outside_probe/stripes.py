"""Stripes that get finer with depth; generated, nothing to download"""

from typing import ClassVar, final

import numpy as np
from PIL import Image

from robustprobe import LabelSpace
from robustprobe.datasets import Dataset, RawSample

SIZE = 32
COUNTS = {"train": 64, "val": 16, "test": 24}


@final
class Stripes(Dataset):
    """Class: whether stripes stand or lie. `absrel`: depth in metres, which falls along the stripes' gradient."""

    labels: ClassVar = {"classification": LabelSpace(classes=("standing", "lying")), "absrel": LabelSpace()}
    native_size: ClassVar = (SIZE, SIZE)
    licence: ClassVar = "CC0-1.0"
    layout: ClassVar = "nothing; stripes are generated"

    def ids(self) -> list[str]:
        return [f"{self.split}-{index}" for index in range(COUNTS[self.split])]

    def read(self, index: int) -> RawSample:
        seed = [*COUNTS].index(self.split) * 1000 + index
        generator = np.random.default_rng(seed)
        phase, near, lying = generator.uniform(0, np.pi), generator.uniform(1, 3), bool(generator.integers(2))
        depth = np.linspace(near, near + 4, SIZE, dtype=np.float32)[:, None].repeat(SIZE, 1)
        across = np.arange(SIZE)[:, None] if lying else np.arange(SIZE)[None, :]
        wave = 0.5 + 0.5 * np.sin(across / 2 + phase) / depth * near
        pixels = (np.stack([wave, depth / depth.max(), np.full_like(depth, near / 3)], -1) * 255).astype(np.uint8)
        return RawSample(Image.fromarray(pixels), {"classification": int(lying), "absrel": depth})
