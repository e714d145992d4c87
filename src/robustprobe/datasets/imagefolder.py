"""Your own photographs, one folder per class: imagefolder:PATH"""

from typing import ClassVar, final

from robustprobe.datasets._class_folders import ClassFolderDataset
from robustprobe.datasets._folders import other_splits
from robustprobe.datasets._own_folders import skipped_files
from robustprobe.datasets.base import SPLITS


@final
class ImageFolder(ClassFolderDataset):
    """If `test` is missing, `val` serves as `test`; without another `val` a tenth of train is `val`."""

    turned: ClassVar = True
    by_path: ClassVar = True
    licence: ClassVar = "unknown; the user's own images"
    citation: ClassVar = "the user's own images"
    layout: ClassVar = "{train,val,test}/CLASS/*.jpg; one of val and test may be missing"

    def doubts(self) -> list[str]:
        return [
            *other_splits(self.folder),
            *skipped_files([self.folder / split for split in SPLITS]),
            *self.folder_doubts(),
        ]
