"""Datasets of images with one label map each, stored as separate files."""

from abc import abstractmethod
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from robustprobe.core.content import FilePart
from robustprobe.core.errors import UserError
from robustprobe.datasets._folders import ImageAndLabel, require, stored_path
from robustprobe.datasets._images import has_unclear_orientation, is_jpeg, open_matching, read_mask, used_colours
from robustprobe.datasets._splits import read_split
from robustprobe.datasets.base import Dataset, RawSample, Split

IGNORE = 255
SAMPLE = 24


class PairDataset(Dataset):
    """A dataset of pairs of image and label map, listed by official split."""

    @abstractmethod
    def pairs(self, split: Split) -> list[ImageAndLabel]:
        """The pairs of an official split, in their official order, without opening a file."""

    def official(self) -> Container[str]:
        """The official splits that have labels; see `read_split`."""
        return ("train", "val")

    @final
    def ids(self) -> list[str]:
        return [pair.id for pair in self.listed]

    @final
    def files(self) -> list[Path]:
        pairs = [self.listed[index] for index in self.indices]
        paths = [path for pair in pairs for path in (pair.image, pair.label)]
        for path in paths:
            require(path, "an image and its label map for every entry of the list")
        return paths

    @final
    def image_parts(self) -> list[FilePart]:
        return [FilePart(self.listed[index].image) for index in self.indices]

    @final
    @cached_property
    def listed(self) -> list[ImageAndLabel]:
        require(self.folder, self.layout)
        found = read_split(self.split, self.official(), self.pairs, lambda pair: pair.key)
        return [pair._replace(image=stored_path(pair.image), label=stored_path(pair.label)) for pair in found]

    @final
    @property
    def sampled(self) -> Sequence[int]:
        """Indices of up to `SAMPLE` of the images, evenly spaced."""
        return self.indices[:: -(-len(self.indices) // SAMPLE)]

    @final
    def orientation_doubts(self) -> list[str]:
        """A warning where sampled images carry an EXIF orientation that their label maps may not share."""
        return self.sampled_doubt(
            (has_unclear_orientation(pair.image) for pair in self.sampled_pairs),
            "images have an EXIF orientation that keeps their size; they are read as stored, as their label maps are. "
            "Where maps were drawn on upright images, store the images upright",
        )

    @final
    @property
    def sampled_pairs(self) -> Iterator[ImageAndLabel]:
        """The files of `sampled`."""
        return (self.listed[index] for index in self.sampled)

    @final
    def sampled_doubt(self, found: Iterable[bool], what: str) -> list[str]:
        """A warning that says how many of the sampled images something was found in, where it was in any."""
        count = sum(found)
        return [f"{self.split}: {count} of {len(self.sampled)} sampled {what}"] if count else []


class MaskDataset(PairDataset):
    """Masks of the size of their images; a table maps stored values to classes."""

    @abstractmethod
    def table(self, mask: Path) -> Sequence[int]:
        """The class of every stored value, 255 for ignored ones. The stored value 255 is always ignored."""

    @final
    def lossy_doubts(self) -> list[str]:
        """A warning where sampled masks are JPEG."""
        return self.sampled_doubt(
            (is_jpeg(pair.label) for pair in self.sampled_pairs),
            "masks are JPEG, whose compression puts other classes near edges: store masks as PNG",
        )

    @final
    def palette_doubts(self) -> list[str]:
        """A warning where sampled masks give one index several colours, as programs do that order a palette by use."""
        colours: dict[int, tuple[int, ...]] = {}
        for pair in self.sampled_pairs:
            try:
                found = used_colours(pair.label)
            except (UserError, OSError):
                continue  # the run says so, and does the rest
            for index, colour in found.items():
                if colours.setdefault(index, colour) != colour:
                    return [
                        f"{self.split}: the palettes of masks differ: {index} is the colour {colours[index]} in one "
                        f"and {colour} in {pair.id}. Indices are read, not colours: write all masks with one palette"
                    ]
        return []

    @final
    def read(self, index: int) -> RawSample:
        pair = self.listed[index]
        mask = read_mask(pair.label)
        image = open_matching(pair.image, mask.shape, pair.label)
        return RawSample(image, {"segmentation": look_up(self.table(pair.label), mask, pair.label)})


def look_up(table: Sequence[int], stored: NDArray[Any], path: Path) -> NDArray[np.int64]:
    """The class (h, w) of every stored value.

    Raises:
        UserError: a value outside the table that is not 255.
    """
    wrong = ((stored < 0) | (stored >= len(table))) & (stored != IGNORE)
    if wrong.any():
        raise UserError(
            f"{path} holds the value {stored[wrong][0]}; expected 0 to {len(table) - 1}, or {IGNORE} (ignored). "
            f"Correct the mask: {IGNORE} where no class is meant; or name more classes, in classes.txt of a segfolder."
        )
    full = np.full(IGNORE + 1, IGNORE, np.int64)
    full[: len(table)] = table
    return full[stored.astype(np.int64)]
