"""CamVid: street scenes in eleven classes, in the SegNet layout"""

from functools import cached_property
from pathlib import Path
from typing import ClassVar, final

import numpy as np
from PIL import Image

from robustprobe.datasets._base import Dataset, RawSample, held_out
from robustprobe.datasets._lists import existing, read_list
from robustprobe.types import LabelSpace

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
VOID = 11


@final
class CamVid(Dataset):
    """Layout: `camvid/{train,val,test}.txt` list `image mask`; mask value 11 is void and ignored.

    `test` is `test.txt`, or `val.txt` where there is no `test.txt`; then a tenth of train is `val`.
    """

    labels: ClassVar = {"segmentation": LabelSpace(classes=CLASSES)}
    native_size: ClassVar = (360, 480)
    licence: ClassVar = "CC BY-NC 4.0 by its source; academic use"
    citation: ClassVar = "Brostow, Fauqueur, Cipolla, Semantic object classes in video, PRL 2009"

    def ids(self) -> list[str]:
        return [Path(row[0]).stem for row in self._rows]

    def read(self, index: int) -> RawSample:
        image, mask = (self._folder / name.lstrip("/") for name in self._rows[index][:2])
        label = np.array(Image.open(mask))
        label = np.where(label == VOID, self.labels["segmentation"].ignore_index, label)
        return RawSample(Image.open(image), {"segmentation": label})

    def files(self) -> list[Path]:
        return existing(self._folder, self._rows, 2)

    @property
    def _folder(self) -> Path:
        return self.root / "camvid"

    @cached_property
    def _rows(self) -> list[list[str]]:
        has_test = (self._folder / "test.txt").exists()
        if self.split == "test":
            return self._list("test" if has_test else "val")
        if has_test:
            return self._list(self.split)
        rows = self._list("train")
        return [rows[i] for i in held_out([row[0] for row in rows], self.split)]

    def _list(self, split: str) -> list[list[str]]:
        return read_list(self._folder / f"{split}.txt", "image mask")
