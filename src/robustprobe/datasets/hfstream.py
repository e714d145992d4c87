"""A dataset of the Hugging Face hub, streamed: hfstream:NAME_OR_PATH[@REVISION] (needs the extra datasets)"""

import hashlib
import io
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from robustprobe.core.errors import UserError
from robustprobe.core.images import opened
from robustprobe.core.types import LabelSpace
from robustprobe.datasets._images import Size, upright
from robustprobe.datasets._splits import read_split
from robustprobe.datasets._stream import Spool, StreamColumns, StreamSource
from robustprobe.datasets.base import SPLITS, Dataset, RawSample, Split

NAMES: dict[str, Split] = {"train": "train", "validation": "val", "val": "val", "dev": "val", "test": "test"}


class StreamRow(NamedTuple):
    """Index of a row in an official split, and its class."""

    id: str
    position: int
    label: int


@final
class HfStream(Dataset):
    """Images with classes. The classes of all rows are read first, without the images; this gives the ids, SPLIT-ROW in
    the published order. Images are then streamed once, in that order; those of the run are kept in a temporary file as
    stored, so that they can be read again in any order.

    If there is no labelled `test`, `validation` serves as `test`; without another `val` a tenth of train is `val`.
    """

    by_path: ClassVar = True
    crop: ClassVar = "centre"
    native_size: ClassVar = (224, 224)
    licence: ClassVar = "see its card on the hub"
    citation: ClassVar = "see its card on the hub"
    layout: ClassVar = "a name of the hub, or a folder `datasets` can load, with an image and a class per row"

    def __init__(self, root: Path, split: Split, size: Size | int | None) -> None:
        super().__init__(root, split, size)
        self._wanted: tuple[Sequence[int], set[int]] = (range(0), set())

    @cached_property
    def labels(self) -> dict[str, LabelSpace]:
        names = self._columns.classes
        if not names:
            first = self._listed(next(self._official[s] for s in SPLITS if s in self._official))
            names = tuple(str(number) for number in range(int(first.max()) + 1))
        return {"classification": LabelSpace(classes=names)}

    def ids(self) -> list[str]:
        return [row.id for row in self._rows]

    def read(self, index: int) -> RawSample:
        row = self._rows[index]
        if self._wanted[0] is not self.indices:
            self._wanted = (self.indices, {self._rows[i].position for i in self.indices})
        content = self._spool.get(row.position, self._wanted[1].__contains__)
        return RawSample(upright(opened(io.BytesIO(content))), {"classification": row.label})

    def stratum(self, index: int) -> int:
        return self._rows[index].label

    def files(self) -> list[Path]:
        local = [Path(file) for file in self._source.files if "://" not in file]
        inside = self.root.resolve()
        return [self.root / file.relative_to(inside) if file.is_relative_to(inside) else file for file in local]

    def settings(self) -> list[str]:
        remote = [file for file in self._source.files if "://" in file]
        content = hashlib.sha256(self._listed(self._published).tobytes()).hexdigest()
        return [*remote, content, *self.labels["classification"].classes]

    @cached_property
    def _source(self) -> StreamSource:
        name = str(self.root)
        head, mark, revision = name.rpartition("@")
        return StreamSource(name, None) if self.root.exists() or not mark else StreamSource(head, revision)

    @cached_property
    def _official(self) -> dict[Split, str]:
        """The published name of each split that has labels."""
        found = {NAMES[name]: name for name in self._source.splits if name in NAMES}
        if not found:
            raise UserError(
                f"{self.kind}:{self.root} has the splits {', '.join(self._source.splits) or 'none'}; expected some of "
                f"{', '.join(NAMES)}. Give a dataset with them."
            )
        if "test" in found and "val" in found and self._listed(found["test"]).min() < 0:
            del found["test"]
        return found

    @cached_property
    def _columns(self) -> StreamColumns:
        return self._source.columns(next(iter(self._source.splits)))

    def _listed(self, name: str) -> NDArray[np.int64]:
        """The classes of a published split; -1 where they are not public."""
        if name not in self._known:
            self._known[name] = np.asarray(self._source.labels(name, self._columns.label), dtype=np.int64)
        return self._known[name]

    @cached_property
    def _known(self) -> dict[str, NDArray[np.int64]]:
        return {}

    @cached_property
    def _rows(self) -> list[StreamRow]:
        return read_split(self.split, self._official, self._read_rows, lambda row: row.id)

    def _read_rows(self, split: Split) -> list[StreamRow]:
        if split not in self._official:
            raise UserError(f"{self.kind}:{self.root} has no split for {split}; {self.how_to_get}")
        labels = self._listed(self._official[split])
        return [
            StreamRow(f"{self._official[split]}-{position:08d}", position, int(label))
            for position, label in enumerate(labels)
        ]

    @cached_property
    def _published(self) -> str:
        """The published name of the split that rows are read from."""
        return self._rows[0].id.rpartition("-")[0]

    @cached_property
    def _spool(self) -> Spool:
        column, split = self._columns.image, self._published
        return Spool(lambda first: self._source.images(split, column, first))
