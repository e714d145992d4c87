"""Mapping of official splits to `train`, `val` (for choices) and `test` (for reported numbers)."""

import hashlib
from collections.abc import Callable, Container, Sequence
from typing import TypeVar

from robustprobe.datasets.base import Split

Item = TypeVar("Item")


def read_split(
    split: Split, official: Container[str], read: Callable[[Split], list[Item]], key: Callable[[Item], str]
) -> list[Item]:
    """The items of one of our splits.

    `test` is the official test, or val if test has no labels. `val` is the official val, or a tenth of train if val is
    missing or serves as `test`.

    Args:
        official: names of the splits that were published with labels.
        read: lists the items of an official split.
        key: names an item; the held-out part of train depends on keys alone, not on their order.
    """
    if split == "test":
        return read("test" if "test" in official else "val")
    if "test" in official and "val" in official:
        return read(split)
    items = read("train")
    return [items[i] for i in held_out([key(item) for item in items], split)]


def held_out(ids: Sequence[str], split: Split, share: float = 0.1) -> list[int]:
    """Indices of the train ids that belong to `train` or `val`, for datasets without an official validation split."""
    order = sorted(range(len(ids)), key=lambda i: hashlib.sha256(ids[i].encode()).digest())
    count = max(1, round(share * len(ids)))
    return sorted(order[:count] if split == "val" else order[count:])
