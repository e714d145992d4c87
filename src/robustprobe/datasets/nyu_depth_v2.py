"""NYU Depth v2: indoor scenes with metric depth, by the BTS lists and 16-bit PNG"""

from functools import cached_property
from pathlib import Path
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustprobe.datasets._base import Dataset, RawSample, held_out
from robustprobe.datasets._lists import existing, read_list
from robustprobe.errors import UserError
from robustprobe.types import LabelSpace

MILLIMETRES = 1000
# Eigen et al. 2014 score rows 45:471 and columns 41:601 of the 480 x 640 image.
EIGEN_ROWS, EIGEN_COLUMNS = slice(45, 471), slice(41, 601)


@final
class NyuDepthV2(Dataset):
    """Layout: `nyu_depth_v2/nyu_{train,test}.txt` list `rgb depth focal`; depth is a 16-bit PNG in millimetres.

    Depths of 0, and of 10 m or more, are not valid; nor, in `test`, is anything outside the Eigen crop.
    """

    labels: ClassVar = {"depth": LabelSpace(max_depth=10.0)}
    native_size: ClassVar = (480, 640)
    licence: ClassVar = "research only"
    citation: ClassVar = "Silberman et al., Indoor segmentation and support inference from RGBD images, ECCV 2012"

    def ids(self) -> list[str]:
        return [str(Path(row[0]).with_suffix("")) for row in self._rows]

    def read(self, index: int) -> RawSample:
        colour, depth = (self._folder / name.lstrip("/") for name in self._rows[index][:2])
        stored = np.array(Image.open(depth))
        if stored.shape != self.native_size:
            raise UserError(f"{depth} has shape {stored.shape}; expected {self.native_size}, one depth in mm a pixel.")
        if stored.dtype.itemsize < 2:
            raise UserError(f"{depth} has 8 bits a pixel; expected 16, depth in mm. Fetch the 16-bit depth maps.")
        metres = (stored / MILLIMETRES).astype(np.float32)
        return RawSample(Image.open(colour), {"depth": eigen_crop(metres) if self.split == "test" else metres})

    def files(self) -> list[Path]:
        return existing(self._folder, self._rows, 2)

    @property
    def _folder(self) -> Path:
        return self.root / "nyu_depth_v2"

    @cached_property
    def _rows(self) -> list[list[str]]:
        name = "test" if self.split == "test" else "train"
        rows = read_list(self._folder / f"nyu_{name}.txt", "rgb depth focal")
        return rows if self.split == "test" else [rows[i] for i in held_out([row[0] for row in rows], self.split)]


def eigen_crop(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Depth (480, 640) with 0, no valid depth, outside the Eigen crop."""
    cropped = np.zeros_like(depth)
    cropped[EIGEN_ROWS, EIGEN_COLUMNS] = depth[EIGEN_ROWS, EIGEN_COLUMNS]
    return cropped
