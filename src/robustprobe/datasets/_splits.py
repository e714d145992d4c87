"""Official splits to ours: `train`, `val` for choosing, `test` for reporting."""

from collections.abc import Callable, Container
from typing import TypeVar

from robustprobe.datasets._base import Split, held_out

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
