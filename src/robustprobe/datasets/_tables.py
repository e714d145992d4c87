"""Classification datasets stored as tables of small images and classes, in several official formats."""

import io
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from robustprobe.core.errors import UserError
from robustprobe.core.images import opened
from robustprobe.datasets._folders import require
from robustprobe.datasets._splits import held_out
from robustprobe.datasets.base import Dataset, RawSample, Split

# Images are compressed already, so that tables of them hardly expand.
MOST_SWELLING = 100
SMALL = 2**26


class ImageTable(NamedTuple):
    """The class of every row, and a function from a row to its image."""

    labels: NDArray[np.int64]
    image: Callable[[int], Image.Image]


class TableEdition(NamedTuple):
    """One published format of the same rows: the files of a split, and the function that reads them."""

    files: list[Path]
    read: Callable[[Sequence[Path]], ImageTable]


class TableDataset(Dataset):
    """Rows in their official order, so that an id means the same image in every edition.

    A fixed tenth of train is `val`.
    """

    @abstractmethod
    def editions(self, split: Split) -> Iterable[TableEdition]:
        """The possible editions of the official `train` or `test`, the preferred one first."""

    @final
    def ids(self) -> list[str]:
        return [f"{self._file_split}-{row:05d}" for row in self._rows]

    @final
    def read(self, index: int) -> RawSample:
        row = self._rows[index]
        return RawSample(self._table.image(row), {"classification": int(self._table.labels[row])})

    @final
    def stratum(self, index: int) -> int:
        return int(self._table.labels[self._rows[index]])

    @final
    def files(self) -> list[Path]:
        return self._edition.files

    @final
    def remarks(self) -> list[str]:
        with suppress(Exception):  # an unreadable image is reported where it is read
            if not len(self._table.labels) or self._table.image(0).format != "JPEG":
                return []
            return ["images are stored as JPEG, not lossless as published: do not report numbers on them"]
        return []

    @property
    def _file_split(self) -> Split:
        return "test" if self.split == "test" else "train"

    @cached_property
    def _rows(self) -> list[int]:
        rows = list(range(len(self._table.labels)))
        if self.split == "test":
            return rows
        return held_out([f"train-{row:05d}" for row in rows], self.split)

    @cached_property
    def _edition(self) -> TableEdition:
        require(self.folder, self.layout)
        for edition in self.editions(self._file_split):
            if edition.files:
                missing = next((path for path in edition.files if not path.is_file()), None)
                if missing:
                    raise UserError(
                        f"no {missing}, although the other files of {self.kind} exist. Download them again."
                    )
                return edition
        raise UserError(f"no {self._file_split} images of {self.kind} in {self.folder}; expected {self.layout}.")

    @cached_property
    def _table(self) -> ImageTable:
        files = self._edition.files
        try:
            return self._edition.read(files)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{files[0].parent} cannot be read as {self.kind}: {type(error).__name__}: {error}. "
                "Download the files again."
            ) from error


def parquet(folders: Iterable[Path], split: Split, image: str, label: str) -> TableEdition:
    """An edition as parquet files of the Hugging Face hub; `image` and `label` are the names of columns."""

    def read(files: Sequence[Path]) -> ImageTable:
        for path in files:
            check_declared(path)
        table = pa.concat_tables([pq.read_table(path, columns=[image, label]) for path in files])
        if table[label].null_count:
            raise UserError(f"{files[0].parent} holds rows without a label. Download the files again.")

        def decode(row: int) -> Image.Image:
            return opened(io.BytesIO(table[image][row].as_py()["bytes"]))

        return ImageTable(table[label].to_numpy().astype(np.int64), decode)

    return TableEdition(sorted(path for folder in folders for path in folder.glob(f"{split}-*.parquet")), read)


def check_declared(path: Path) -> None:
    """Raises UserError for a parquet file that declares far more data than its size allows."""
    metadata, stored = pq.read_metadata(path), path.stat().st_size
    declared = sum(metadata.row_group(position).total_byte_size for position in range(metadata.num_row_groups))
    if declared > MOST_SWELLING * stored + SMALL:
        raise UserError(
            f"{path} declares {declared:,} bytes of data in a file of {stored:,}; it is refused. Replace it."
        )


def pixel_table(labels: Any, planes: NDArray[np.uint8], name: str) -> ImageTable:
    """Rows of `planes` (N, 3, H, W).

    Raises:
        UserError: the numbers of labels and images differ.
    """
    if len(labels) != len(planes):
        raise UserError(f"{name} holds {len(planes)} images and {len(labels)} labels. Download the files again.")
    return ImageTable(
        np.asarray(labels, dtype=np.int64),
        lambda row: Image.fromarray(np.ascontiguousarray(planes[row].transpose(1, 2, 0))),
    )


def all_or_none(folder: Path, names: Sequence[str]) -> list[Path]:
    """The named files of an edition, including missing ones, if any of them exists; else an empty list."""
    paths = [folder / name for name in names]
    return paths if any(path.is_file() for path in paths) else []
