"""The revisited Oxford and Paris data sets: images in one folder, `gnd_NAME.pkl` with queries and what is relevant."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, final

import numpy as np

from robustprobe.core.errors import UserError
from robustprobe.core.types import LabelSpace, QueryTruth
from robustprobe.datasets._folders import require
from robustprobe.datasets._images import loaded
from robustprobe.datasets._pickles import ArrayUnpickler
from robustprobe.datasets.base import Dataset, RawSample

TASK = "landmarks"


class _GroundTruth(NamedTuple):
    """Names of gallery images and of queries, the box (left, top, right, bottom) of each query, and its truth."""

    images: tuple[str, ...]
    queries: tuple[str, ...]
    boxes: tuple[tuple[float, ...], ...]
    truths: tuple[QueryTruth, ...]


class RevisitedDataset(Dataset):
    """`train` is the gallery, `test` the queries, cut out by their boxes. Images are resized whole."""

    splits: ClassVar = ("train", "test")
    native_size: ClassVar = (224, 224)
    licence: ClassVar = "images of Flickr under their own terms; used for research by custom"
    citation: ClassVar = (
        "Radenovic et al., Revisiting Oxford and Paris: Large-Scale Image Retrieval Benchmarking, CVPR 2018"
    )
    homepage: ClassVar = "http://cmp.felk.cvut.cz/revisitop/"

    @final
    @cached_property
    def labels(self) -> Mapping[str, LabelSpace]:
        return {TASK: LabelSpace(classes=self._truth.images, queries=self._truth.truths)}

    @final
    def ids(self) -> list[str]:
        return list(self._names)

    @final
    def read(self, index: int) -> RawSample:
        image = loaded(self._path(self._names[index]))
        if self.split == "test":
            left, top, right, bottom = self._truth.boxes[index]
            image = image.convert("RGB").crop((round(left), round(top), round(right), round(bottom)))
        return RawSample(image, {TASK: index})

    @final
    def files(self) -> list[Path]:
        return [self._ground_truth, *(self._path(self._names[index]) for index in self.indices)]

    @property
    def _names(self) -> tuple[str, ...]:
        return self._truth.queries if self.split == "test" else self._truth.images

    @property
    def _ground_truth(self) -> Path:
        return self.folder / f"gnd_{self.kind}.pkl"

    def _path(self, name: str) -> Path:
        return self.folder / "jpg" / f"{name}.jpg"

    @cached_property
    def _truth(self) -> _GroundTruth:
        path = require(self._ground_truth, self.layout)
        try:
            with path.open("rb") as file:
                found = ArrayUnpickler(file).load()
            return _checked(found)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{path} is no ground truth of this protocol: {error!r}. Download it again.") from error


def _checked(found: Mapping[str, Any]) -> _GroundTruth:
    images, queries = tuple(map(str, found["imlist"])), tuple(map(str, found["qimlist"]))
    boxes = tuple(tuple(float(side) for side in entry["bbx"]) for entry in found["gnd"])
    truths = tuple(
        QueryTruth(*(_places(entry[key], len(images)) for key in QueryTruth._fields)) for entry in found["gnd"]
    )
    if not len(queries) == len(truths) or any(len(box) != 4 for box in boxes):
        raise ValueError(f"{len(queries)} queries, {len(truths)} entries; expected one with a box of four for each")
    if strange := next((name for name in (*images, *queries) if Path(name).name != name), ""):
        raise ValueError(f"the image name {strange!r} is a path")
    return _GroundTruth(images, queries, boxes, truths)


def _places(listed: Sequence[int], count: int) -> tuple[int, ...]:
    places = tuple(int(place) for place in np.asarray(listed, dtype=np.int64).ravel())
    if any(not 0 <= place < count for place in places):
        raise ValueError(f"an image has place {max(places)}; expected 0 to {count - 1}")
    return places
