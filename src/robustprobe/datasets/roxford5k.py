"""Revisited Oxford: retrieval of photographs of landmarks by 70 queries, easy, medium and hard"""

from typing import ClassVar, final

from robustprobe.datasets._revisited import RevisitedDataset


@final
class ROxford5k(RevisitedDataset):
    """4993 images of Oxford and 70 queries."""

    counts: ClassVar = {"train": (4993,), "test": (70,)}
    layout: ClassVar = "gnd_roxford5k.pkl and jpg/*.jpg, as the authors' program unpacks them"
