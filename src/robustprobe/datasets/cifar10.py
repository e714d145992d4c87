"""CIFAR-10: small photographs of ten classes, as the Hugging Face parquet files"""

import io
from functools import cached_property
from pathlib import Path
from typing import ClassVar, final

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from robustprobe.datasets._base import Dataset, RawSample, held_out, require
from robustprobe.errors import UserError
from robustprobe.types import LabelSpace

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@final
class Cifar10(Dataset):
    """Layout of `uoft-cs/cifar10`: `cifar10/[plain_text/]{train,test}-*.parquet` with columns `img` and `label`.

    A tenth of train, the same for everyone, is `val`.
    """

    labels: ClassVar = {"classification": LabelSpace(classes=CLASSES)}
    native_size: ClassVar = (32, 32)
    licence: ClassVar = "research use customary"
    citation: ClassVar = "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"

    def ids(self) -> list[str]:
        return [f"{self._file_split}-{row:05d}" for row in self._rows]

    def read(self, index: int) -> RawSample:
        row = self._rows[index]
        stored = self._table["img"][row].as_py()
        return RawSample(Image.open(io.BytesIO(stored["bytes"])), {"classification": self._table["label"][row].as_py()})

    def stratum(self, index: int) -> int:
        return int(self._table["label"][self._rows[index]].as_py())

    @property
    def _file_split(self) -> str:
        return "test" if self.split == "test" else "train"

    @cached_property
    def _rows(self) -> list[int]:
        rows = list(range(len(self._table)))
        if self.split == "test":
            return rows
        return held_out([f"train-{row:05d}" for row in rows], self.split)

    def files(self) -> list[Path]:
        folder = require(self.root / "cifar10", "a folder cifar10 with train-*.parquet and test-*.parquet")
        files = sorted(p for f in (folder, folder / "plain_text") for p in f.glob(f"{self._file_split}-*.parquet"))
        if not files:
            raise UserError(
                f"no {self._file_split}-*.parquet in {folder}; expected the parquet files of uoft-cs/cifar10."
            )
        return files

    @cached_property
    def _table(self) -> pa.Table:
        files = self.files()
        try:
            table = pa.concat_tables([pq.read_table(p, columns=["img", "label"]) for p in files])
        except (OSError, pa.ArrowException, KeyError) as error:
            raise UserError(
                f"{files[0].parent} cannot be read as CIFAR-10 parquet: {error}. Fetch the files again."
            ) from error
        if table["label"].null_count:
            raise UserError(f"{files[0].parent} holds rows without a label. Fetch the files again.")
        return table
