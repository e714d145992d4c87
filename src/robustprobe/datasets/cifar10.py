"""CIFAR-10: classification of 32 x 32 photographs into ten classes"""

from collections.abc import Iterator
from typing import ClassVar, final

from robustprobe.core.types import LabelSpace
from robustprobe.datasets._cifar import binary, pickles
from robustprobe.datasets._download import fetch
from robustprobe.datasets._tables import TableDataset, TableEdition, parquet
from robustprobe.datasets.base import Split

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@final
class Cifar10(TableDataset):
    """Reads the parquet files of `uoft-cs/cifar10`, which have the official order, or the official archives."""

    labels: ClassVar = {"classification": LabelSpace(classes=CLASSES)}
    native_size: ClassVar = (32, 32)
    counts: ClassVar = {"train": (50_000,), "test": (10_000,)}
    licence: ClassVar = "used for research by custom"
    citation: ClassVar = "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"
    homepage: ClassVar = "https://www.cs.toronto.edu/~kriz/cifar.html"
    archives: ClassVar = ("cifar-10-batches-py", "cifar-10-batches-bin")
    layout: ClassVar = "[plain_text/]{train,test}-*.parquet (columns img, label), cifar-10-batches-py or -bin"

    def editions(self, split: Split) -> Iterator[TableEdition]:
        yield parquet([self.own_folder, self.own_folder / "plain_text"], split, "img", "label")
        batches = ["test_batch"] if split == "test" else [f"data_batch_{part}" for part in range(1, 6)]
        for folder in self.archive_folders("cifar-10-batches-py"):
            yield pickles(folder, batches, b"labels")
        for folder in self.archive_folders("cifar-10-batches-bin"):
            yield binary(folder, [f"{name}.bin" for name in batches], 1)

    def download(self) -> None:
        fetch("CIFAR10", self.own_folder, self.homepage)
