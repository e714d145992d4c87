"""Classification datasets stored as one folder per class."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, NamedTuple, final

from robustprobe.core.content import FilePart
from robustprobe.core.errors import UserError
from robustprobe.core.types import LabelSpace
from robustprobe.datasets._folders import MOST_SHOWN, composed, folders_found, image_names, is_hidden, loose_images
from robustprobe.datasets._images import loaded, upright
from robustprobe.datasets._splits import read_split
from robustprobe.datasets.base import SPLITS, Dataset, RawSample, Split


class ClassMember(NamedTuple):
    """An image, by its path relative to the dataset's folder, and the index of its class."""

    id: str
    label: int


class ClassFolderDataset(Dataset):
    """Classes are the sorted names of the folders. Images are served as square centre crops.

    Where there is no split `val`, nothing is held out of train.
    """

    crop: ClassVar = "centre"
    native_size: ClassVar = (224, 224)
    task: ClassVar[str] = "classification"
    """The task that the folders are labels for."""
    folder_names: ClassVar[Mapping[Split, str]] = {split: split for split in SPLITS}
    turned: ClassVar[bool]
    """Whether images are rotated by their EXIF orientation."""

    @cached_property
    def labels(self) -> dict[str, LabelSpace]:
        return {self.task: LabelSpace(classes=tuple(composed(name) for name in self._classes))}

    @final
    def ids(self) -> list[str]:
        return [member.id for member in self._members]

    @final
    def read(self, index: int) -> RawSample:
        member = self._members[index]
        image = loaded(self.folder / member.id)
        return RawSample(upright(image) if self.turned else image, {self.task: member.label})

    @final
    def stratum(self, index: int) -> int:
        return self._members[index].label

    @final
    def files(self) -> list[Path]:
        folder = self.folder
        return [folder / self._members[index].id for index in self.indices]

    @final
    def image_parts(self) -> list[FilePart]:
        return self.parts()

    @final
    def settings(self) -> list[str]:
        return list(self._classes)

    @final
    def folder_doubts(self) -> list[str]:
        """Warnings about images beside the folders of classes, and folders below them that may be classes."""
        names = [self.folder_names[split] for split in self.splits if (self.folder / self.folder_names[split]).is_dir()]
        loose = {name: len(loose_images(self.folder / name)) for name in names}
        found = [
            f"{n} images in {name} lie beside the folders of classes and are not read" for name, n in loose.items() if n
        ]
        below: dict[str, set[str]] = {}
        for member in self._members:
            _, name, *folders, _ = member.id.split("/")
            below.setdefault(name, set()).add(folders[0] if folders else "")
        several = {name: sorted(folders) for name, folders in below.items() if len(folders) > 1 and "" not in folders}
        if several:
            name, folders = next(iter(several.items()))
            found.append(
                f"{self.split}: {len(several)} classes hold images in several folders each, which are read as one "
                f"class: {name} in {', '.join(folders[:MOST_SHOWN])}{' ...' * (len(folders) > MOST_SHOWN)}"
            )
        return found

    @cached_property
    def _official(self) -> list[Split]:
        found = [split for split in self.splits if (self.folder / self.folder_names[split]).is_dir()]
        if not found:
            raise UserError(f"no images of {self.kind} in {self.folder}; {self.how_to_get}{folders_found(self.folder)}")
        return found

    @cached_property
    def _classes(self) -> Sequence[str]:
        # Of train, if it exists: a class that is not in train is an error in the other splits.
        return self._class_folders(self._official[0])

    def _class_folders(self, split: Split) -> list[str]:
        folder = self.folder / self.folder_names[split]
        if not folder.is_dir():
            raise UserError(f"no {folder}; {self.how_to_get}{folders_found(self.folder)}")
        found = (entry.name for entry in folder.iterdir() if not is_hidden(entry.name) and entry.is_dir())
        names = sorted(found, key=composed)
        twice = next((b for a, b in pairwise(names) if composed(a) == composed(b)), None)
        if twice:
            raise UserError(
                f"{folder} has two folders of the name {twice}, whose accents are stored differently (NFC, NFD); "
                "expected one. Move the images into one of them."
            )
        if not names:
            raise UserError(f"{folder} has no folders of classes; {self.how_to_get}")
        return names

    @cached_property
    def _members(self) -> list[ClassMember]:
        if "val" not in self.splits:
            return self._list(self.split)
        return read_split(self.split, self._official, self._list, lambda member: member.id)

    def _list(self, split: Split) -> list[ClassMember]:
        names = self.folder_names
        place = {composed(name): number for number, name in enumerate(self._classes)}
        members = []
        for name in self._class_folders(split):
            if composed(name) not in place:
                raise UserError(
                    f"{self.folder / names[split] / name} is not a class of {self.folder / names[self._official[0]]}; "
                    "expected the same folders of classes in every split. Rename or remove it."
                )
            files = image_names(self.folder / names[split] / name)
            members += [ClassMember(f"{names[split]}/{name}/{file}", place[composed(name)]) for file in files]
        return members
