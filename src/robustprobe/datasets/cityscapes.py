"""Cityscapes: segmentation of street scenes into nineteen classes, 1024 x 2048 pixels"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, final

from robustprobe.core.types import LabelSpace
from robustprobe.datasets._folders import ImageAndLabel, image_names, require
from robustprobe.datasets._pairs import IGNORE, MaskDataset
from robustprobe.datasets.base import Split

# Names in the order of the train ids, with the label id of each in the annotation files.
LABEL_IDS = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
TRAIN_IDS = [{label: position for position, label in enumerate(LABEL_IDS.values())}.get(i, IGNORE) for i in range(34)]
IMAGE, LABELS, TRAIN_LABELS = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"


@final
class Cityscapes(MaskDataset):
    """Fine annotations: 19 of the 34 label ids are classes, the others are ignored.

    `test` is the official val, since the test set has no public labels; a tenth of train is `val`.
    """

    labels: ClassVar = {"segmentation": LabelSpace(classes=tuple(LABEL_IDS), ignore_index=IGNORE)}
    native_size: ClassVar = (1024, 2048)
    counts: ClassVar = {"train": (2_975,), "test": (500,)}
    licence: ClassVar = "non-commercial research by its terms; registration needed"
    citation: ClassVar = "Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016"
    homepage: ClassVar = "https://www.cityscapes-dataset.com/downloads"
    layout: ClassVar = (
        "leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and gtFine/{train,val}/CITY/*_gtFine_labelIds.png"
    )

    def pairs(self, split: Split) -> list[ImageAndLabel]:
        images, masks = (require(self.folder / kind / split, self.layout) for kind in ("leftImg8bit", "gtFine"))
        stored = set(image_names(masks))
        pairs = []
        for name in (name for name in image_names(images) if name.endswith(IMAGE)):
            frame = name.removesuffix(IMAGE)
            only_train_labels = frame + LABELS not in stored and frame + TRAIN_LABELS in stored
            mask = frame + (TRAIN_LABELS if only_train_labels else LABELS)
            pairs.append(ImageAndLabel(Path(frame).name, images / name, masks / mask, Path(frame).name))
        return pairs

    def table(self, mask: Path) -> Sequence[int]:
        return range(len(LABEL_IDS)) if mask.name.endswith(TRAIN_LABELS) else TRAIN_IDS
