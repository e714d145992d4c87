"""What every dataset is: fixed ids, images in [0, 1], labels by task."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, final

from PIL import Image
from torch import Tensor

from robustprobe.core.content import FilePart, content_digests
from robustprobe.core.errors import UserError
from robustprobe.core.fingerprints import fingerprint
from robustprobe.core.registry import own_name
from robustprobe.core.shared_names import shared_name
from robustprobe.core.types import LabelSpace, Sample
from robustprobe.core.user_code import source_digest
from robustprobe.datasets._folders import endings_below
from robustprobe.datasets._images import Size, as_rgb, centre_crop, served_size, to_tensor
from robustprobe.tasks import Task, load_task
from robustprobe.tasks.base import Label

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
# Dense datasets are served with about this many times the pixels an encoder prefers.
DENSE_AREA = 3.0


class RawSample(NamedTuple):
    """An image as read, and its labels by task: an int, a class map (h, w), depths (h, w) in metres, and so on."""

    image: Image.Image
    labels: Mapping[str, Label]


class Dataset(ABC):
    """A split of a labelled dataset, or a fixed part of it.

    Derived classes list ids and read one sample; sizes, checks and subsets are settled here. Labels keep their own
    resolution. Images are resized to `size`: (H, W), or a number of pixels for the shorter side.
    """

    licence: ClassVar[str] = "unknown"
    citation: ClassVar[str] = ""
    homepage: ClassVar[str] = ""
    """Where it is published: one registers or downloads there."""
    layout: ClassVar[str] = ""
    """The files that are expected, in words."""
    archives: ClassVar[tuple[str, ...]] = ()
    """What the official archives unpack to, accepted inside `folder` and beside it."""
    by_path: ClassVar[bool] = False
    """Whether the name holds the folder of one's own data, as that of `imagefolder` does."""
    splits: ClassVar[tuple[Split, ...]] = SPLITS
    """The splits it has. `val` may be missing where heads of its tasks are not trained."""
    crop: ClassVar[Literal["none", "centre"]] = "none"
    """Whether a square is cut from the centre of images that are served as squares."""
    reading_threads: ClassVar[int] = 4
    generated: ClassVar[bool] = False
    """Whether images and labels are made, not read: then there is nothing to doubt about them."""

    def __init__(self, root: Path, split: Split, size: Size | int | None) -> None:
        self.root, self.split, self._size = root, split, size
        self.data_root = root
        self.own_path = self.registered_name = ""
        self.indices: Sequence[int] = range(0)
        self.borrowed: dict[str, str] = {}
        self._tasks: dict[str, Task] = {}

    @property
    @abstractmethod
    def labels(self) -> Mapping[str, LabelSpace]:
        """What the labels of each task mean; known before an image is read. A class attribute will do."""

    @final
    @property
    def spaces(self) -> Mapping[str, LabelSpace]:
        """`labels`, with those of tasks that were asked for and read the labels of another one."""
        return {**self.labels, **{task: self.labels[source] for task, source in self.borrowed.items()}}

    @property
    @abstractmethod
    def native_size(self) -> Size:
        """(H, W) of the images as they are stored, or of a typical one where they differ. A class attribute will do."""

    @property
    def counts(self) -> Mapping[Split, tuple[int, ...]]:
        """Images of each official split, one number for each official edition. A class attribute will do."""
        return {}

    @abstractmethod
    def ids(self) -> list[str]:
        """The id of every image of the split, in the official order."""

    @abstractmethod
    def read(self, index: int) -> RawSample:
        """Image and labels at a place in `ids()`."""

    def files(self) -> list[Path]:
        """The files that the kept images and their labels are read from; their content is part of the digest."""
        return []

    def parts(self) -> list[FilePart]:
        """The parts of `files()` that are read; whole files by default."""
        return [FilePart(path) for path in self.files()]

    def image_parts(self) -> list[FilePart]:
        """The file of each kept image, or the part of one; none where images are rows of a table."""
        return []

    def settings(self) -> list[str]:
        """What the labels depend on beside what those files hold; part of the digest."""
        return []

    def stratum(self, index: int) -> int:
        """The group within which subsets are balanced: the class where it is known without reading the image."""
        return 0

    def known_label(self, index: int) -> int:
        """The label of a whole image where it is known without reading the image; by default its stratum."""
        return self.stratum(index)

    def rank(self, index: int) -> bytes:
        """What images are sorted by where a limit keeps the first ones: a hash of the id."""
        return hashlib.sha256(self._ids[index].encode()).digest()

    def group(self, index: int) -> str:
        """Names the group of an image whose images are not independent, such as a video; empty where there is none.

        Intervals then draw groups, not images.
        """
        return ""

    @final
    def groups(self) -> list[int] | None:
        """The group of each kept image by number; None where no image has one."""
        names = [self.group(index) for index in self.indices]
        numbers = {name: number for number, name in enumerate(sorted(set(names)))}
        return [numbers[name] for name in names] if any(names) else None

    def remarks(self) -> list[str]:
        """What a reader of `robustprobe data check` should know of the edition that was found."""
        return []

    def doubts(self) -> list[str]:
        """What is legal but implausible about the files that were found, one sentence each."""
        return []

    @final
    @property
    def knows_labels(self) -> bool:
        """Whether `known_label` says the label of an image without reading it."""
        kind = type(self)
        return kind.stratum is not Dataset.stratum or kind.known_label is not Dataset.known_label

    def download(self) -> None:
        """Fetch the official files into `folder`.

        Raises:
            UserError: they are not offered for download without more ado, or did not arrive.
        """
        raise UserError(f"{self.kind} cannot be downloaded from here; {self.how_to_get}")

    @final
    @property
    def own_folder(self) -> Path:
        """The folder of the dataset's name, or the one that was named."""
        return self.root if self.by_path else self.root / self.kind.rpartition(":")[2]

    @final
    def archive_folders(self, *archives: str) -> list[Path]:
        """Where an archive may have been unpacked: in the dataset's own folder, or beside it."""
        return [parent / archive for archive in archives for parent in (self.own_folder, self.root)]

    @final
    @property
    def folder(self) -> Path:
        """Where the files lie: what an official archive unpacks to if it is there, else the dataset's own folder."""
        return next((folder for folder in self.archive_folders(*self.archives) if folder.is_dir()), self.own_folder)

    @final
    @property
    def how_to_get(self) -> str:
        """Where the files are published, and how they must lie."""
        source = f"see {self.homepage}; " if self.homepage else ""
        return f"{source}expected in {self.own_folder}: {self.layout}."

    def fit_size(self, input_size: Size, patch_size: int) -> Size:
        """Image size (H, W) for an encoder: its own for square images, else the nearest shape with as many patches.

        The aspect ratio of the dataset is kept as well as multiples of the patch size allow.
        """
        height, width = self.native_size
        if height == width:
            return input_size
        scale = (input_size[0] * input_size[1] * DENSE_AREA / (height * width)) ** 0.5
        rows, columns = (max(1, round(side * scale / patch_size)) for side in (height, width))
        return rows * patch_size, columns * patch_size

    @final
    @property
    def size(self) -> Size | int:
        """(H, W) images are served at, or the length of their shorter side; the dataset's own by default."""
        return self._size or self.native_size

    @final
    @property
    def typical_size(self) -> Size:
        """(H, W) images are served at, or a typical one's where shapes differ."""
        return served_size(self.size, self.native_size)

    @final
    @property
    def kind(self) -> str:
        """The registered name, without the folder that may follow it."""
        return self.registered_name or own_name(type(self))

    @final
    @property
    def name(self) -> str:
        """The name it was asked for by, without the folders of this machine."""
        return shared_name(f"{self.kind}:{self.own_path}") if self.own_path else self.kind

    @final
    def __len__(self) -> int:
        return len(self.indices)

    @final
    def __getitem__(self, position: int) -> Sample:
        index = self.indices[position]
        identity = self._ids[index]
        try:
            raw = _checked(self.read(index), self.labels)
            served = self._served(as_rgb(raw.image))
        except UserError as error:
            if identity in str(error):
                raise
            raise UserError(f"{self.name}: image {identity}: {error}") from error
        except Exception as error:
            raise UserError(f"{self.name}: image {identity} cannot be read: {error}. Replace the file.") from error
        labels = {**raw.labels, **{task: raw.labels[source] for task, source in self.borrowed.items()}}
        targets = {task: self._target(task, value, identity) for task, value in labels.items()}
        return Sample(identity, served, targets)

    def _served(self, pixels: Image.Image) -> Tensor:
        size = served_size(self.size, (pixels.height, pixels.width))
        if self.crop == "centre" and size == self.size and size[0] == size[1]:
            pixels = centre_crop(pixels, size[0])
        return to_tensor(pixels, size)

    @final
    def __iter__(self) -> Iterator[Sample]:
        return (self[position] for position in range(len(self)))

    @final
    def select(self, limit: int | None) -> "Dataset":
        """Keep a fixed part: the ids that come first in a fixed shuffle, as many from each stratum as possible.

        Raises:
            UserError: no images, or a limit below one.
        """
        if limit is not None and limit < 1:
            raise UserError(f"limit {limit} leaves no image; give a limit of 1 or more, or none for the whole split.")
        try:
            self._ids = self.ids()
        except OSError as error:
            raise UserError(f"{self.name}: {self.folder} cannot be listed: {error}. Correct the folder.") from error
        _check_names(self._ids, self.name)
        repeated = len(self._ids) - len(set(self._ids))
        if repeated:
            raise UserError(f"{self.name}: {repeated} images are listed more than once. Correct the list.")
        if not self._ids:
            found = endings_below(self.folder)
            raise UserError(f"{self.name} has no {self.split} images under {self.root}; check the folder.{found}")
        self.indices = range(len(self._ids)) if limit is None or limit >= len(self._ids) else self._subset(limit)
        return self

    def _subset(self, limit: int) -> list[int]:
        order = sorted(range(len(self._ids)), key=self.rank)
        strata: dict[int, list[int]] = defaultdict(list)
        place = {}
        for index in order:
            members = strata[self.stratum(index)]
            place[index] = len(members)
            members.append(index)
        order.sort(key=lambda i: place[i])
        return sorted(order[:limit])

    @final
    @property
    def kept_ids(self) -> list[str]:
        """Ids of the images that remain after `select`."""
        return [self._ids[i] for i in self.indices]

    @final
    def digest(self) -> str:
        """Fingerprint of name, split, image size, kept ids and the content of the files behind them.

        Files that are unchanged since they were read last are not read again: see `core/content`.
        """
        return self.digests()[0]

    @final
    def digests(self) -> tuple[str, str]:
        """`digest`, and the same without the image size, which encoders of different sizes have in common."""
        # `Path.relative_to` would take most of the time of a million files.
        prefix = os.path.join(self.root, "")
        parts = self.parts()
        names = [os.fspath(part.path).removeprefix(prefix) for part in parts]
        content = list(zip(names, self._digests(parts), strict=True))
        source = source_digest(type(self))
        rest = [self.kept_ids, content, *self.settings()]
        of_any_size = fingerprint([self.kind, source, self.split, "any size", *rest])
        return fingerprint([self.kind, source, self.split, self.size, *rest]), of_any_size

    @final
    def image_digests(self) -> list[str]:
        """Digests of what the files of the kept images hold, in order; none where there are no files of their own.

        Raises:
            UserError: a file cannot be read.
        """
        return self._digests(self.image_parts())

    def _digests(self, parts: Sequence[FilePart]) -> list[str]:
        try:
            return content_digests(parts)
        except OSError as error:
            raise UserError(f"{self.name}: a file cannot be read: {error}. Replace or remove it.") from error

    def _target(self, name: str, label: Label, identity: str) -> Tensor:
        try:
            return self._task(name).check_label(label)
        except ValueError as error:
            raise UserError(f"{self.name}: image {identity} has {name} {error}. Correct the label file.") from error

    def _task(self, name: str) -> Task:
        if name not in self._tasks:
            self._tasks[name] = load_task(name, self.spaces[name])
        return self._tasks[name]


def _check_names(ids: Sequence[str], name: str) -> None:
    """Raises UserError for an id that is no Unicode, as that of a file from an archive in another coding."""
    try:
        "\n".join(ids).encode()
    except UnicodeEncodeError:
        shown = next(text for i in ids if (text := i.encode(errors="replace").decode()) != i)
        raise UserError(f"{name}: the name of image {shown} is not in UTF-8. Rename the file.") from None


def _checked(raw: object, labels: Mapping[str, LabelSpace]) -> RawSample:
    """What `read` of a dataset gave. Raises UserError where it is something else than an image and known labels."""
    if not isinstance(raw, RawSample):
        raise UserError(f"`read` gave a {type(raw).__name__}; expected RawSample(image, labels by task).")
    if not isinstance(raw.image, Image.Image):
        kind = type(raw.image).__name__
        raise UserError(f"`read` gave an image that is a {kind}; expected one of Pillow, as Image.fromarray makes it.")
    if unknown := ", ".join(raw.labels.keys() - labels.keys()):
        raise UserError(f"`read` gave labels for {unknown}, which the dataset's `labels` lacks: {', '.join(labels)}.")
    return raw
