"""Datasets whose images are rendered where they are read: nothing to download."""

from pathlib import Path
from typing import ClassVar

from robustprobe.core.errors import UserError
from robustprobe.datasets._images import Size, served_size
from robustprobe.datasets.base import Dataset, Split


class GeneratedDataset(Dataset):
    """Square images of any side from 16 to 1024 pixels."""

    native_size: ClassVar = (64, 64)
    layout: ClassVar = "nothing; scenes are generated"
    licence: ClassVar = "CC0-1.0"
    generated: ClassVar = True
    # Rendering holds the interpreter's lock: 94 scenes a second with one thread, 47 with six, on two cores.
    reading_threads: ClassVar = 1

    def __init__(self, root: Path, split: Split, size: Size | int | None) -> None:
        super().__init__(root, split, size)
        height, width = served_size(self.size, self.native_size)
        if height != width or not 16 <= height <= 1024:
            raise UserError(f"{self.name} are square, of 16 to 1024 pixels, not {self.size}; give such a size.")
        self.side = height
