"""WebDataset shards, tar archives of photographs with their classes: webdataset:PATH-{0000..0009}.tar"""

import io
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import ClassVar, NamedTuple, final

from robustprobe.core.content import FilePart
from robustprobe.core.errors import UserError
from robustprobe.core.images import opened
from robustprobe.core.types import LabelSpace
from robustprobe.datasets._folders import MOST_SHOWN, require
from robustprobe.datasets._images import IMAGE_SUFFIXES, Size, upright
from robustprobe.datasets._lists import class_doubts, class_names
from robustprobe.datasets._shards import ShardMember, expanded, members, read_at
from robustprobe.datasets._splits import held_out, read_split
from robustprobe.datasets.base import SPLITS, Dataset, RawSample, Split

PLACEHOLDER = "{split}"
LONGEST_LABEL = 20
LARGEST_LABEL = 2**31 - 1
TEST_SHARE = 0.2
FEWEST_COMPARED = 2
"""Two shards of a single image may hold the same one without being copies."""


class Item(NamedTuple):
    """An image in a shard (file, offset, size) and its class."""

    id: str
    shard: Path
    start: int
    size: int
    label: int


@final
class WebDataset(Dataset):
    """Each sample is `KEY.jpg` (or another image) and `KEY.cls`, the index of its class in `classes.txt`.

    PATH is a folder with `{train,val,test}-*.tar`, or names shards by ranges and `{split}`. Without `{split}` all
    shards are one set, of which a fixed fifth is `test` and a fixed tenth of the rest `val`. Shards are listed once by
    their headers, and images are read from the archives.
    """

    by_path: ClassVar = True
    crop: ClassVar = "centre"
    native_size: ClassVar = (224, 224)
    licence: ClassVar = "unknown; the user's own images"
    citation: ClassVar = "the user's own images"
    layout: ClassVar = (
        "a folder with {train,val,test}-*.tar, or names such as PATH/{split}-{0000..0009}.tar or "
        "PATH-{0000..0009}.tar, with members KEY.jpg and KEY.cls, and classes.txt beside them with one name per line"
    )

    def __init__(self, root: Path, split: Split, size: Size | int | None) -> None:
        parts = root.parts
        fixed = next(
            (position for position, part in enumerate(parts) if "{" in part or part.endswith(".tar")), len(parts)
        )
        self.pattern = "/".join(parts[fixed:])
        super().__init__(Path(*parts[:fixed]), split, size)

    @cached_property
    def labels(self) -> dict[str, LabelSpace]:
        return {"classification": LabelSpace(classes=class_names(self.root / "classes.txt", self.layout))}

    def ids(self) -> list[str]:
        return [item.id for item in self._items]

    def read(self, index: int) -> RawSample:
        item = self._items[index]
        image = upright(opened(io.BytesIO(read_at(item.shard, item.start, item.size))))
        return RawSample(image, {"classification": item.label})

    def stratum(self, index: int) -> int:
        return self._items[index].label

    def files(self) -> list[Path]:
        return list(dict.fromkeys(part.path for part in self.parts()))

    def parts(self) -> list[FilePart]:
        items = [self._items[index] for index in self.indices]
        return [FilePart(item.shard, item.start, item.size) for item in items]

    def image_parts(self) -> list[FilePart]:
        return self.parts()

    def doubts(self) -> list[str]:
        return class_doubts(self.labels["classification"].classes)

    def settings(self) -> list[str]:
        labels = [str(self._items[index].label) for index in self.indices]
        return [*labels, *self.labels["classification"].classes]

    @cached_property
    def _items(self) -> list[Item]:
        if self.pattern and PLACEHOLDER not in self.pattern:
            return self._divided(self._listed(self._named("")))
        official = [split for split in SPLITS if any(shard.is_file() for shard in self._named(split))]
        return read_split(self.split, official, lambda split: self._listed(self._named(split)), lambda item: item.id)

    def _named(self, split: str) -> list[Path]:
        """Paths of the shards of an official split, including missing ones."""
        if not self.pattern:
            return sorted(self.root.glob(f"{split}-*.tar"))
        return [self.root / name for name in expanded(self.pattern.replace(PLACEHOLDER, split))]

    def _divided(self, items: list[Item]) -> list[Item]:
        """The items of this split, where all shards are one set."""
        ids = [item.id for item in items]
        if self.split == "test":
            return [items[position] for position in held_out(ids, "val", TEST_SHARE)]
        rest = [items[position] for position in held_out(ids, "train", TEST_SHARE)]
        return [rest[position] for position in held_out([item.id for item in rest], self.split)]

    def _listed(self, shards: list[Path]) -> list[Item]:
        if not shards:
            names = sorted(path.name for path in self.root.glob("*.tar*"))
            there = (
                f" Found there: {', '.join(names[:MOST_SHOWN])}{' ...' * (len(names) > MOST_SHOWN)}." if names else ""
            )
            raise UserError(f"no shards of {self.root}; expected {self.layout}.{there}")
        listed = [list(items_of(shard, self._shard_id(shard))) for shard in shards]
        _refuse_repeated(shards, listed)
        return [item for items in listed for item in items]

    def _shard_id(self, shard: Path) -> str:
        return shard.relative_to(self.root).with_suffix("").as_posix()


def _refuse_repeated(shards: Sequence[Path], listed: Sequence[Sequence[Item]]) -> None:
    """Raises UserError for a shard that is another one of the list under a second name, or a copy of it."""
    first = dict[tuple[object, ...], Path]()
    for shard, items in zip(shards, listed, strict=True):
        for known in (_file(shard), _content(shard, items)):
            other = first.setdefault(known, shard)
            if other != shard:
                raise UserError(
                    f"{shard} holds the same samples as {other}; name each shard once, or replace one of them."
                )


def _file(shard: Path) -> tuple[object, ...]:
    found = shard.stat()
    return found.st_dev, found.st_ino


def _content(shard: Path, items: Sequence[Item]) -> tuple[object, ...]:
    """What copies of a shard share: places and classes of all images, and the first and the last of them."""
    if len(items) < FEWEST_COMPARED:
        return (shard,)
    ends = [read_at(shard, item.start, item.size) for item in (items[0], items[-1])]
    return (*ends, *((item.start, item.size, item.label) for item in items))


def items_of(shard: Path, name: str) -> Iterator[Item]:
    """The images of a shard, in order, by `name/KEY`.

    Raises:
        UserError: no such shard, or a sample without an image or a class, with two of one kind, or with a repeated key.
    """
    require(shard, "a shard for every number of the range", own=True)
    seen = set[str]()
    for stem, together in groupby(members(shard), lambda member: member.key):
        found: dict[str, dict[str, ShardMember]] = {}
        for member in together:
            before, _, last = member.ending.rpartition(".")
            kind = "image" if f".{last}" in IMAGE_SUFFIXES else last
            key = f"{stem}.{before}" if before else stem
            if kind not in ("image", "cls"):
                continue
            if kind in found.setdefault(key, {}):
                raise UserError(
                    f"{shard} holds {key} twice; expected one image and one class of each. Correct the shard."
                )
            found[key][kind] = member
        # Beside a sample with a class, an image such as KEY.seg.png is another part of it.
        classed = {key: parts for key, parts in found.items() if "cls" in parts}
        names = list(classed or found) or [stem]
        if repeated := next((key for key in names if key in seen), ""):
            raise UserError(
                f"{shard} holds parts of {repeated} in two places; expected them together. Correct the shard."
            )
        seen.update(names)
        yield from (_item(shard, name, key, parts) for key, parts in (classed or found).items())


def _item(shard: Path, name: str, key: str, parts: dict[str, ShardMember]) -> Item:
    missing = {"image", "cls"} - parts.keys()
    if missing:
        lacking = ".cls" if "cls" in missing else "an image"
        raise UserError(
            f"{shard} holds {key} without {lacking} beside it; expected both, one after the other. Write the shard "
            "again, with the members of each sample together."
        )
    image, label = parts["image"], parts["cls"]
    text = read_at(shard, label.start, min(label.size, LONGEST_LABEL + 1)).strip()
    if len(text) > LONGEST_LABEL or not text.isdigit() or int(text) > LARGEST_LABEL:
        raise UserError(f"{shard} holds {key}.cls with {text[:LONGEST_LABEL]!r}; expected the index of a class.")
    return Item(f"{name}/{key}", shard, image.start, image.size, int(text))
