"""Revisited Paris: retrieval of photographs of landmarks by 70 queries, easy, medium and hard"""

from typing import ClassVar, final

from robustprobe.datasets._revisited import RevisitedDataset


@final
class RParis6k(RevisitedDataset):
    """6322 images of Paris and 70 queries."""

    counts: ClassVar = {"train": (6322,), "test": (70,)}
    layout: ClassVar = "gnd_rparis6k.pkl and jpg/*.jpg, as the authors' program unpacks them"
