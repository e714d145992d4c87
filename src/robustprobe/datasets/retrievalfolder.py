"""Your own search: folders of gallery images and queries, one folder per item: retrievalfolder:PATH"""

from typing import ClassVar, final

from robustprobe.datasets._class_folders import ClassFolderDataset
from robustprobe.datasets._own_folders import skipped_files


@final
class RetrievalFolder(ClassFolderDataset):
    """The whole gallery is `train`, the queries are `test`; images of one item are relevant to each other."""

    task: ClassVar = "retrieval"
    splits: ClassVar = ("train", "test")
    folder_names: ClassVar = {"train": "gallery", "test": "queries"}
    turned: ClassVar = True
    by_path: ClassVar = True
    licence: ClassVar = "unknown; the user's own images"
    citation: ClassVar = "the user's own images"
    layout: ClassVar = "{gallery,queries}/ITEM/*.jpg"

    def doubts(self) -> list[str]:
        folders = [self.folder / name for name in self.folder_names.values()]
        return [*skipped_files(folders), *self.folder_doubts()]
