"""Your own images with segmentation masks: segfolder:PATH"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, final

from robustprobe.core.types import LabelSpace
from robustprobe.datasets._folders import ImageAndLabel, other_splits
from robustprobe.datasets._images import Size
from robustprobe.datasets._lists import class_doubts, class_names
from robustprobe.datasets._own_folders import first_size, found_splits, own_pairs, skipped_files, unpaired_maps
from robustprobe.datasets._pairs import IGNORE, MaskDataset
from robustprobe.datasets.base import SPLITS, Split


@final
class SegFolder(MaskDataset):
    """Masks hold class indices, 255 is ignored.

    If `test` is missing, `val` serves as `test`; without another `val` a tenth of train is `val`. An image with an EXIF
    orientation is rotated if only then it matches its mask.
    """

    by_path: ClassVar = True
    licence: ClassVar = "unknown; the user's own images"
    citation: ClassVar = "the user's own images"
    layout: ClassVar = (
        "images/{train,val,test}/*.jpg, masks/{train,val,test}/*.png with the same names, and classes.txt with one "
        "name per line; one of val and test may be missing"
    )

    @cached_property
    def labels(self) -> dict[str, LabelSpace]:
        names = class_names(self.folder / "classes.txt", self.layout, IGNORE)
        return {"segmentation": LabelSpace(classes=names, ignore_index=IGNORE)}

    @cached_property
    def native_size(self) -> Size:
        return first_size(self.folder, self.layout)

    def official(self) -> Sequence[str]:
        return found_splits(self.folder, self.layout)

    def pairs(self, split: Split) -> list[ImageAndLabel]:
        return own_pairs(self.folder, "masks", split, self.layout)

    def doubts(self) -> list[str]:
        folders = [self.folder / kind / split for kind in ("images", "masks") for split in SPLITS]
        found = [
            *class_doubts(self.settings()),
            *skipped_files(folders),
            *other_splits(self.folder / "images"),
            *unpaired_maps(self.folder, "masks"),
        ]
        return [*found, *self.orientation_doubts(), *self.lossy_doubts(), *self.palette_doubts()]

    def settings(self) -> list[str]:
        return list(self.labels["segmentation"].classes)

    def table(self, mask: Path) -> Sequence[int]:
        return range(len(self.labels["segmentation"].classes))
