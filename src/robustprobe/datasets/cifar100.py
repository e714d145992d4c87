"""CIFAR-100: classification of 32 x 32 photographs into a hundred classes"""

from collections.abc import Iterator
from typing import ClassVar, final

from robustprobe.core.types import LabelSpace
from robustprobe.datasets._cifar import binary, pickles
from robustprobe.datasets._download import fetch
from robustprobe.datasets._tables import TableDataset, TableEdition, parquet
from robustprobe.datasets.base import Split

NAMES = """\
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm"""
CLASSES = tuple(NAMES.split())


@final
class Cifar100(TableDataset):
    """The hundred fine classes, from the parquet files of `uoft-cs/cifar100`, which have the official order, or the
    official archives.
    """

    labels: ClassVar = {"classification": LabelSpace(classes=CLASSES)}
    native_size: ClassVar = (32, 32)
    counts: ClassVar = {"train": (50_000,), "test": (10_000,)}
    licence: ClassVar = "used for research by custom"
    citation: ClassVar = "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"
    homepage: ClassVar = "https://www.cs.toronto.edu/~kriz/cifar.html"
    archives: ClassVar = ("cifar-100-python", "cifar-100-binary")
    layout: ClassVar = "[cifar100/]{train,test}-*.parquet (columns img, fine_label), cifar-100-python or -binary"

    def editions(self, split: Split) -> Iterator[TableEdition]:
        yield parquet([self.own_folder, self.own_folder / "cifar100"], split, "img", "fine_label")
        for folder in self.archive_folders("cifar-100-python"):
            yield pickles(folder, [split], b"fine_labels")
        for folder in self.archive_folders("cifar-100-binary"):
            # Each row has the coarse label before the fine one.
            yield binary(folder, [f"{split}.bin"], 2)

    def download(self) -> None:
        fetch("CIFAR100", self.own_folder, self.homepage)
