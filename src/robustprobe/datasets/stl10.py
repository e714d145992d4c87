"""STL-10: classification of 96 x 96 photographs into ten classes"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, final

import numpy as np

from robustprobe.core.errors import UserError
from robustprobe.core.types import LabelSpace
from robustprobe.datasets._download import fetch
from robustprobe.datasets._tables import ImageTable, TableDataset, TableEdition, all_or_none, parquet, pixel_table
from robustprobe.datasets.base import Split

CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
SHAPE = (3, 96, 96)


@final
class Stl10(TableDataset):
    """The labelled images. An id means the same image in both editions only if the parquet files keep the official
    order; the hub has no official copy.
    """

    labels: ClassVar = {"classification": LabelSpace(classes=CLASSES)}
    native_size: ClassVar = (96, 96)
    counts: ClassVar = {"train": (5_000,), "test": (8_000,)}
    licence: ClassVar = "used for research by custom; the images are from ImageNet"
    citation: ClassVar = "Coates, Lee, Ng, An Analysis of Single-Layer Networks in Unsupervised Feature Learning, 2011"
    homepage: ClassVar = "https://cs.stanford.edu/~acoates/stl10/"
    archives: ClassVar = ("stl10_binary",)
    layout: ClassVar = "stl10_binary/{train,test}_{X,y}.bin, or [data/]{train,test}-*.parquet (columns image, label)"

    def editions(self, split: Split) -> Iterator[TableEdition]:
        for folder in (*self.archive_folders("stl10_binary"), self.own_folder):
            yield TableEdition(all_or_none(folder, [f"{split}_X.bin", f"{split}_y.bin"]), read_binary)
        yield parquet([self.own_folder, self.own_folder / "data"], split, "image", "label")

    def download(self) -> None:
        fetch("STL10", self.own_folder, self.homepage)


def read_binary(files: Sequence[Path]) -> ImageTable:
    """Images stored as red, green and blue planes in column-major order; classes count from 1."""
    pixels, labels = files
    if pixels.stat().st_size % np.prod(SHAPE):
        raise UserError(f"{pixels} does not hold a whole number of images. Download the file again.")
    planes = np.memmap(pixels, np.uint8, "r").reshape(-1, *SHAPE).swapaxes(2, 3)
    return pixel_table(np.fromfile(labels, np.uint8).astype(np.int64) - 1, planes, str(pixels.parent))
