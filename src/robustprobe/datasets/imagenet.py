"""ImageNet (ILSVRC 2012): classification of photographs into a thousand classes"""

from typing import ClassVar, final

from robustprobe.datasets._class_folders import ClassFolderDataset


@final
class ImageNet(ClassFolderDataset):
    """`test` is the official val; a tenth of train is `val`. Classes are the sorted names of the folders (WordNet ids).

    A folder with some of the classes is a dataset of these. Images are not rotated by EXIF: published numbers are
    measured on images as stored.
    """

    turned: ClassVar = False
    counts: ClassVar = {"train": (1_281_167,), "test": (50_000,)}
    licence: ClassVar = "non-commercial research, by the terms of access"
    citation: ClassVar = "Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015"
    homepage: ClassVar = "https://www.image-net.org/download.php"
    archives: ClassVar = ("ILSVRC/Data/CLS-LOC", "ILSVRC2012")
    layout: ClassVar = "{train,val}/n01440764/*.JPEG; the images of val moved into one folder per class"
