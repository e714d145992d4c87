"""The two editions of NYU Depth v2: lists of PNG files, and the labelled MATLAB file."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustprobe.core.errors import UserError
from robustprobe.datasets._folders import require
from robustprobe.datasets._images import open_matching, read_depth
from robustprobe.datasets._lists import existing, read_list
from robustprobe.datasets._splits import read_split
from robustprobe.datasets.base import Split

SHAPE = (480, 640)
MILLIMETRES = 1000
# The official splits.mat has 2,626 bytes.
MOST_SPLITS = 2**16
LONGEST_NAME = 100
LISTS = {
    "train": ("nyu_train.txt", "nyudepthv2_train_files_with_gt.txt"),
    "test": ("nyu_test.txt", "nyudepthv2_test_files_with_gt.txt"),
}
SPLITS_KEYS: dict[str, str] = {"train": "trainNdxs", "test": "testNdxs"}
# BTS sets the white frame of the photographs to black when it exports them from the MATLAB file.
FRAME_ROWS, FRAME_COLUMNS = slice(7, 474), slice(7, 632)


class RawDepth(NamedTuple):
    """A photograph and its depth (480, 640) in metres."""

    image: Image.Image
    depth: NDArray[np.float32]


class NyuEdition(Protocol):
    """One published form of NYU Depth v2: the images and depths of a split."""

    @property
    def ids(self) -> list[str]: ...

    def read(self, index: int) -> RawDepth: ...

    def files(self, indices: Sequence[int]) -> list[Path]: ...


def list_of(folder: Path, split: str) -> Path | None:
    """The list file of the official `train` or `test`, if it exists."""
    return next((folder / name for name in LISTS[split] if (folder / name).is_file()), None)


@final
class ListedFiles:
    """BTS's list files of `rgb depth focal`; depth is a 16-bit PNG in millimetres."""

    def __init__(self, folder: Path, split: Split) -> None:
        self.folder, self.split = folder, split

    @cached_property
    def rows(self) -> list[list[str]]:
        return read_split(self.split, ("train", "test"), self._rows_of, lambda row: row[0])

    @property
    def ids(self) -> list[str]:
        return [str(Path(row[0]).with_suffix("")) for row in self.rows]

    def read(self, index: int) -> RawDepth:
        image, depth = (self.base_folder / name.lstrip("/") for name in self.rows[index][:2])
        metres = read_depth(depth, MILLIMETRES)
        if metres.shape != SHAPE:
            raise UserError(
                f"{depth} has shape {metres.shape}; expected {SHAPE}, one depth in mm per pixel. Replace it."
            )
        return RawDepth(open_matching(image, SHAPE, depth), metres)

    def files(self, indices: Sequence[int]) -> list[Path]:
        return existing(self.base_folder, [self.rows[index] for index in indices], 2)

    @property
    def base_folder(self) -> Path:
        """The folder that paths in the list are relative to: BTS uses one for train and one for test."""
        apart = self.folder / ("official_splits/test" if self.split == "test" else "sync")
        return apart if apart.is_dir() else self.folder

    def _rows_of(self, split: Split) -> list[list[str]]:
        return read_list(list_of(self.folder, split) or self.folder / LISTS[split][0], "rgb depth focal")


@final
class LabelledMat:
    """`nyu_depth_v2_labeled.mat` with `splits.mat`: raw depth, without in-painting, with the ids of BTS's lists.

    Images are read one by one: the file has 2.8 GB.
    """

    def __init__(self, folder: Path, split: Split) -> None:
        self.path, self.split = folder / "nyu_depth_v2_labeled.mat", split
        self.splits = require(
            folder / "splits.mat", "splits.mat, the official split into 795 and 654 images, beside it"
        )

    @cached_property
    def members(self) -> list[tuple[str, int]]:
        return read_split(self.split, ("train", "test"), self._members_of, lambda member: member[0])

    @property
    def ids(self) -> list[str]:
        return [name for name, _ in self.members]

    def read(self, index: int) -> RawDepth:
        row = self.members[index][1]
        stored = self.stored["images"][row].transpose(2, 1, 0)
        depth = self.stored["rawDepths"][row].T
        framed = np.zeros_like(stored)
        framed[FRAME_ROWS, FRAME_COLUMNS] = stored[FRAME_ROWS, FRAME_COLUMNS]
        return RawDepth(Image.fromarray(framed), depth.astype(np.float32))

    def files(self, indices: Sequence[int]) -> list[Path]:
        return [self.path, self.splits]

    @cached_property
    def stored(self) -> Any:
        """The open file."""
        h5py, _ = matlab_readers()
        try:
            file = h5py.File(self.path, "r")
            missing = {"images", "rawDepths", "sceneTypes"} - set(file)
            # Shapes are checked before data is read: a small file can declare an array of any size.
            shapes = [] if missing else [file[name].shape for name in ("images", "rawDepths", "sceneTypes")]
        except Exception as error:
            raise UserError(f"{self.path} cannot be read: {error}. Download the file again.") from error
        if missing:
            raise UserError(f"{self.path} has no {', '.join(sorted(missing))}. Download the labelled dataset again.")
        if shapes[0][1:] != (3, *SHAPE[::-1]) or shapes[1][1:] != SHAPE[::-1] or len(shapes[2]) != 2:
            raise UserError(f"{self.path} holds images {shapes[0]} and depths {shapes[1]}; expected 480 x 640.")
        return file

    def _members_of(self, split: Split) -> list[tuple[str, int]]:
        _, loadmat = matlab_readers()
        key = SPLITS_KEYS[split]
        try:
            # MATLAB's indices start at 1.
            if self.splits.stat().st_size > MOST_SPLITS:
                raise ValueError(f"it has more than {MOST_SPLITS:,} bytes")
            rows = [int(number) - 1 for number in loadmat(self.splits, variable_names=[key])[key].flatten()]
        except Exception as error:
            raise UserError(f"{self.splits} has no list {key}: {error}. Download the file again.") from error
        if not all(0 <= row < len(self.stored["images"]) for row in rows):
            raise UserError(f"{self.splits} lists images that {self.path} does not hold. Download both again.")
        return sorted((f"{self._scene(row)}/rgb_{row:05d}", row) for row in rows)

    def _scene(self, row: int) -> str:
        try:
            letters = self.stored[self.stored["sceneTypes"][0, row]]
            if letters.size > LONGEST_NAME:
                raise ValueError(f"a name of {letters.size} letters")
            return "".join(chr(letter) for letter in letters[()].flatten())
        except Exception as error:
            raise UserError(
                f"{self.path} has no scene name for image {row}: {error}. Download the file again."
            ) from error


def matlab_readers() -> tuple[Any, Any]:
    """h5py, for the data, and `scipy.io.loadmat`, for the splits. Raises UserError where one is not installed."""
    try:
        import h5py
        from scipy.io import loadmat
    except ImportError as error:
        raise UserError(
            f"{error.name} is needed to read MATLAB files; install it with `pip install 'robustprobe[nyu]'`."
        ) from error
    return h5py, loadmat
