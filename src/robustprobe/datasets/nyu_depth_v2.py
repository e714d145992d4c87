"""NYU Depth v2: depth in metres of indoor scenes"""

from functools import cached_property
from pathlib import Path
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from robustprobe.core.types import LabelSpace
from robustprobe.datasets._folders import require
from robustprobe.datasets._nyu_editions import SHAPE, LabelledMat, ListedFiles, NyuEdition, list_of
from robustprobe.datasets.base import Dataset, RawSample

# Eigen et al. 2014 score rows 45:471 and columns 41:601 of the 480 x 640 image.
EIGEN_ROWS, EIGEN_COLUMNS = slice(45, 471), slice(41, 601)


@final
class NyuDepthV2(Dataset):
    """Reads the lists of BTS, or the labelled MATLAB file if there are none.

    Depths of 0 and of 10 m or more are invalid; in `test` also all pixels outside the Eigen crop. A tenth of
    train is `val`.
    """

    labels: ClassVar = {"depth": LabelSpace(max_depth=10.0)}
    native_size: ClassVar = SHAPE
    counts: ClassVar = {"train": (795, 24_231), "test": (654,)}
    licence: ClassVar = "research only"
    citation: ClassVar = "Silberman et al., Indoor segmentation and support inference from RGBD images, ECCV 2012"
    homepage: ClassVar = "https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html"
    layout: ClassVar = (
        "nyu_{train,test}.txt with lines of 'rgb depth focal', and the listed files, depth as 16-bit PNG in mm; or "
        "nyu_depth_v2_labeled.mat with splits.mat"
    )

    def ids(self) -> list[str]:
        return self._edition.ids

    def read(self, index: int) -> RawSample:
        image, metres = self._edition.read(index)
        return RawSample(image, {"depth": eigen_crop(metres) if self.split == "test" else metres})

    def files(self) -> list[Path]:
        return self._edition.files(self.indices)

    def remarks(self) -> list[str]:
        if isinstance(self._edition, LabelledMat):
            return ["depth is rawDepths of the labelled MATLAB file, as BTS evaluates"]
        return []

    @cached_property
    def _edition(self) -> NyuEdition:
        require(self.folder, self.layout)
        wanted = "test" if self.split == "test" else "train"
        if list_of(self.folder, wanted) is None and (self.folder / "nyu_depth_v2_labeled.mat").is_file():
            return LabelledMat(self.folder, self.split)
        return ListedFiles(self.folder, self.split)


def eigen_crop(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Depth (480, 640) set to 0 (invalid) outside the Eigen crop."""
    cropped = np.zeros_like(depth)
    cropped[EIGEN_ROWS, EIGEN_COLUMNS] = depth[EIGEN_ROWS, EIGEN_COLUMNS]
    return cropped
