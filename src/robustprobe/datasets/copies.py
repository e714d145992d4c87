"""Edited copies of the images of another dataset, among images that are no copies: copies:DATASET or copies:PATH"""

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import zip_longest
from random import Random
from types import MappingProxyType
from typing import ClassVar, NamedTuple, final

from PIL import Image, ImageFilter, ImageOps

from robustprobe.core.images import opened
from robustprobe.core.registry import datasets
from robustprobe.core.types import LabelSpace
from robustprobe.datasets._images import Size, as_rgb
from robustprobe.datasets._loading import find_dataset
from robustprobe.datasets.base import Dataset, RawSample, Split

TASK = "copies"
NO_COPY = "no copy"
"""The class of images that are no copy of an image of the gallery: label 0."""
MOST = 500
"""Copies, and images that are none, of each set of queries at most."""
MOST_EDITS = 3


def _crop(image: Image.Image, random: Random) -> Image.Image:
    """A part of 40 to 90 % of the area, of the same shape."""
    side = random.uniform(0.4, 0.9) ** 0.5
    width, height = (max(1, round(side * length)) for length in image.size)
    left, top = (round(random.random() * (w - c)) for w, c in zip(image.size, (width, height), strict=True))
    return image.crop((left, top, left + width, top + height))


def _resize(image: Image.Image, random: Random) -> Image.Image:
    """Sides of 40 to 80 % of the length."""
    share = random.uniform(0.4, 0.8)
    width, height = (max(1, round(share * side)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _blur(image: Image.Image, random: Random) -> Image.Image:
    """A Gaussian whose deviation is 0.5 to 2 % of the shorter side."""
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.005, 0.02) * min(image.size)))


def _flip(image: Image.Image, random: Random) -> Image.Image:
    """Left and right exchanged."""
    return ImageOps.mirror(image)


def _jpeg(image: Image.Image, random: Random) -> Image.Image:
    """Compressed at a quality of 20 to 70."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=random.randint(20, 70))
    buffer.seek(0)
    with opened(buffer, formats=("JPEG",)) as read:
        return read.convert("RGB")


EDITS: Mapping[str, Callable[[Image.Image, Random], Image.Image]] = MappingProxyType(
    {"crop": _crop, "resize": _resize, "blur": _blur, "flip": _flip, "jpeg": _jpeg}
)
"""Edits by name, in the order in which they are made."""


class _Item(NamedTuple):
    """An image of the set: its id, its label, and where in the other dataset it comes from."""

    id: str
    label: int
    split: Split
    place: int
    edits: tuple[str, ...]


@final
class EditedCopies(Dataset):
    """What a search for copies needs, made of the images of another dataset; a folder is read as `imagefolder` does.

    `train` is one half of its train images as they are, the gallery, and the other half edited, on which thresholds
    are set. `val` and `test` are queries: edited copies of different images of the gallery, and images of that split
    with the same edits that are no copies (after DISC21, Douze et al. 2021, whose edits are other and more). Each
    query has one to three edits, drawn from its id. The label of a copy and of its original is 1 + the place of the
    original in train; that of all others is 0.
    """

    by_path: ClassVar = True
    licence: ClassVar = "that of the images that are copied"
    citation: ClassVar = "Douze et al., The 2021 Image Similarity Dataset and Challenge, 2021, arXiv:2106.09672"
    layout: ClassVar = "the name of a dataset, or a folder of {train,val,test}/CLASS/*.jpg"

    @property
    def labels(self) -> Mapping[str, LabelSpace]:
        return {TASK: LabelSpace(classes=(NO_COPY, *self._train_ids))}

    @property
    def native_size(self) -> Size:
        return self._of("train").native_size

    def ids(self) -> list[str]:
        return [item.id for item in self._items]

    def read(self, index: int) -> RawSample:
        item, source = self._items[index], self._of(self._items[index].split)
        image = as_rgb(source.read(item.place).image)
        if source.crop == "centre":
            image = ImageOps.fit(image, (min(image.size),) * 2)
        random = Random(_hash(item.id))
        for name in item.edits:
            image = EDITS[name](image, random)
        return RawSample(image, {TASK: item.label})

    def settings(self) -> list[str]:
        """Digests of the images that the kept ones are made of."""
        found = []
        for split in dict.fromkeys(self._items[i].split for i in self.indices):
            source = find_dataset(self._name, root=self.data_root, split=split).select(None)
            source.indices = sorted({self._items[i].place for i in self.indices if self._items[i].split == split})
            found.append(source.digests()[1])
        return found

    def known_label(self, index: int) -> int:
        return self._items[index].label

    def rank(self, index: int) -> bytes:
        # Images are listed such that a gallery and queries that are limited alike belong together.
        return index.to_bytes(8, "big")

    def group(self, index: int) -> str:
        item = self._items[index]
        return self._of(item.split).group(item.place)

    def remarks(self) -> list[str]:
        return self._of("train").remarks()

    def doubts(self) -> list[str]:
        return self._of("train").doubts()

    @property
    def _name(self) -> str:
        """The name of the other dataset."""
        known = self.own_path.partition(":")[0] in datasets.names() or ".py:" in self.own_path
        return self.own_path if known else f"imagefolder:{self.own_path}"

    def _of(self, split: Split) -> Dataset:
        return self._sources[split]

    @cached_property
    def _sources(self) -> dict[Split, Dataset]:
        """The other dataset, by split."""
        wanted: tuple[Split, ...] = ("train",) if self.split == "train" else ("train", self.split)
        return {
            split: find_dataset(self._name, root=self.data_root, split=split, size=self._size).select(None)
            for split in wanted
        }

    @cached_property
    def _train_ids(self) -> list[str]:
        return self._of("train").kept_ids

    @cached_property
    def _items(self) -> list[_Item]:
        return list(self._gallery() if self.split == "train" else self._queries())

    @cached_property
    def _split_train(self) -> tuple[list[int], list[int]]:
        """Places of the train images that are in the gallery, and of the others, each in an order of its own."""
        order = sorted(range(len(self._train_ids)), key=lambda place: _hash(self._train_ids[place]))
        originals = [place for place in order if _hash(self._train_ids[place]) % 2 == 0]
        return originals, [place for place in order if _hash(self._train_ids[place]) % 2]

    def _gallery(self) -> Iterator[_Item]:
        originals, others = self._split_train
        names = self._train_ids
        yield from _alternately(
            [_Item(f"gallery/{names[place]}", 1 + place, "train", place, ()) for place in originals],
            [_edited("background", names[place], 0, "train", place) for place in others],
        )

    def _queries(self) -> Iterator[_Item]:
        originals = self._split_train[0][self.split == "val" :: 2][:MOST]
        names, own = self._train_ids, self._of(self.split).kept_ids
        others = sorted(range(len(own)), key=lambda place: _hash(own[place]))[:MOST]
        yield from _alternately(
            [_edited("copy", names[place], 1 + place, "train", place) for place in originals],
            [_edited("distractor", own[place], 0, self.split, place) for place in others],
        )


def _alternately(first: Sequence[_Item], second: Sequence[_Item]) -> Iterator[_Item]:
    """One of each after the other, then what is left."""
    pairs = zip_longest(first, second)
    return (item for pair in pairs for item in pair if item is not None)


def _edited(role: str, name: str, label: int, split: Split, index: int) -> _Item:
    random = Random(_hash(f"{role}/{split}/{name}"))
    drawn = random.sample(sorted(EDITS), random.randint(1, MOST_EDITS))
    edits = tuple(edit for edit in EDITS if edit in drawn)
    return _Item(f"{role}/{'-'.join(edits)}/{name}", label, split, index, edits)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
