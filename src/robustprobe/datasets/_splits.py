"""Official splits to ours: `train`, `val` for choosing, `test` for reporting."""

import hashlib
from collections.abc import Callable, Container, Sequence
from typing import TypeVar

from robustprobe.datasets.base import Split

Item = TypeVar("Item")


def read_split(
    split: Split, official: Container[str], read: Callable[[Split], list[Item]], key: Callable[[Item], str]
) -> list[Item]:
    """The items of one of our splits.

    `test` is the official test, or val where there is no test with labels. `val` is the official val, or a tenth of
    train where val is reported on or missing.

    Args:
        official: names of the splits that were published or found.
        read: lists the items of an official split.
        key: what an item is held out by; whatever the order, the same items are.
    """
    if split == "test":
        return read("test" if "test" in official else "val")
    if "test" in official and "val" in official:
        return read(split)
    items = read("train")
    return [items[i] for i in held_out([key(item) for item in items], split)]


def held_out(ids: Sequence[str], split: Split, share: float = 0.1) -> list[int]:
    """Places of the train ids that belong to `train` or `val` where a dataset has no official split for choosing."""
    order = sorted(range(len(ids)), key=lambda i: hashlib.sha256(ids[i].encode()).digest())
    count = max(1, round(share * len(ids)))
    return sorted(order[:count] if split == "val" else order[count:])
