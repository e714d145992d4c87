"""PASCAL VOC 2012: segmentation into twenty classes of objects and background"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, final

from robustprobe.core.types import LabelSpace
from robustprobe.datasets._download import fetch
from robustprobe.datasets._folders import ImageAndLabel
from robustprobe.datasets._lists import read_list
from robustprobe.datasets._pairs import IGNORE, MaskDataset
from robustprobe.datasets.base import Split

NAMES = """\
background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant
sheep sofa train tvmonitor"""
CLASSES = tuple(NAMES.split())


@final
class Voc2012(MaskDataset):
    """21 classes with background; 255, the border around objects, is ignored.

    `test` is the official val; a tenth of train is `val`. Train is the longer list with the annotations of SBD
    (Hariharan et al. 2011) where both `ImageSets/Segmentation/trainaug.txt` and `SegmentationClassAug` exist.
    """

    labels: ClassVar = {"segmentation": LabelSpace(classes=CLASSES, ignore_index=IGNORE)}
    native_size: ClassVar = (375, 500)
    counts: ClassVar = {"train": (1_464, 10_582), "test": (1_449,)}
    licence: ClassVar = "images under the Flickr terms of use; used for research by custom"
    citation: ClassVar = "Everingham et al., The PASCAL Visual Object Classes Challenge 2012"
    homepage: ClassVar = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
    archives: ClassVar = ("VOCdevkit/VOC2012", "VOC2012")
    layout: ClassVar = "VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation/{train,val}.txt}"

    def remarks(self) -> list[str]:
        if self.split == "test" or not self._augmented:
            return []
        return ["train is trainaug.txt with SegmentationClassAug (SBD), not the official train.txt"]

    def pairs(self, split: Split) -> list[ImageAndLabel]:
        augmented = split == "train" and self._augmented
        masks = self.folder / ("SegmentationClassAug" if augmented else "SegmentationClass")
        names = read_list(self._lists / ("trainaug.txt" if augmented else f"{split}.txt"), "name")
        # Some lists of SBD hold file names instead of ids.
        stems = [Path(row[0]).stem for row in names]
        return [ImageAndLabel(s, self.folder / "JPEGImages" / f"{s}.jpg", masks / f"{s}.png", s) for s in stems]

    def table(self, mask: Path) -> Sequence[int]:
        return range(len(CLASSES))

    def download(self) -> None:
        fetch("VOCSegmentation", self.own_folder, self.homepage, year="2012", image_set="trainval")

    @property
    def _lists(self) -> Path:
        return self.folder / "ImageSets" / "Segmentation"

    @property
    def _augmented(self) -> bool:
        return (self._lists / "trainaug.txt").is_file() and (self.folder / "SegmentationClassAug").is_dir()
