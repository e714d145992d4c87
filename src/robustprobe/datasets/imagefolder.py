"""Your own photographs, one folder per class: imagefolder:PATH"""

from typing import ClassVar, final

from robustprobe.datasets._class_folders import ClassFolderDataset


@final
class ImageFolder(ClassFolderDataset):
    """`test` is `val` where there is no `test`; a tenth of train is `val` where there is no other."""

    turned: ClassVar = True
    by_path: ClassVar = True
    licence: ClassVar = "yours to know"
    citation: ClassVar = "one's own images"
    layout: ClassVar = "{train,val,test}/CLASS/*.jpg; val or test may be missing"
