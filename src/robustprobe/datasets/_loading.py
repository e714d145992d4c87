"""Datasets by name."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, cast

from pydantic import BeforeValidator

from robustprobe.core.errors import UserError
from robustprobe.core.registry import datasets, registered_name
from robustprobe.core.spec_base import Spec, validated
from robustprobe.datasets._images import Size
from robustprobe.datasets.base import SPLITS, Dataset
from robustprobe.tasks import label_sources


def load_dataset(
    name: str,
    *,
    root: str | Path = "data",
    split: str = "test",
    limit: int | None = None,
    size: Size | int | None = None,
    tasks: Sequence[str] = (),
) -> Dataset:
    """A split of a dataset, or a fixed part of it.

    Args:
        name: a registered dataset (`robustprobe list datasets`), `imagefolder:PATH` and its like, or `my.py:Class`.
        root: the folder that holds datasets, each in a folder of its own name.
        limit: number of images; always the same ones for the same number.
        size: (H, W) images are resized to, or the length of their shorter side; the dataset's own by default.
        tasks: tasks wanted beside those of the dataset, which read its labels of another: `retrieval` reads classes.

    Raises:
        UserError: unknown name or split, missing folder, wrong layout, no images, or a limit below one.

    Example:
        >>> import robustprobe as rp
        >>> data = rp.load_dataset("scenes", split="test", limit=100)
        >>> sample = data[0]  # Sample(id, image (3, H, W) in [0, 1], targets by task)
    """
    wanted = [tasks] if isinstance(tasks, str) else tasks
    given = {"name": name, "root": root, "split": split, "limit": limit, "size": size, "tasks": wanted}
    asked = validated(_Asked, given, f"dataset {name!r}")
    found = find_dataset(asked.name, root=asked.root, split=asked.split, size=asked.size, tasks=asked.tasks)
    return found.select(asked.limit)


def _one_or_two(size: object) -> object:
    """Raises ValueError for what is no size."""
    sides = size if isinstance(size, tuple | list) and len(size) == 2 else [size]
    if size is not None and not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"expected (H, W), or one number of pixels for the shorter side, got {size!r}")
    return size


class _Asked(Spec):
    """What a dataset is loaded with."""

    name: str
    root: Path
    split: str
    limit: int | None
    size: Annotated[Size | int | None, BeforeValidator(_one_or_two)]
    tasks: tuple[str, ...]


def find_dataset(
    name: str,
    *,
    root: str | Path = "data",
    split: str = "test",
    size: Size | int | None = None,
    tasks: Sequence[str] = (),
) -> Dataset:
    """A split of a dataset that says what it is, but whose images are not listed yet. Arguments as `load_dataset`.

    Raises:
        UserError: unknown name or split, or a folder that does not say what its labels mean.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split '{split}'; choose train, val or test.")
    head, _, path = name.partition(":")
    if head not in datasets.names():
        head, path = name, ""
    if head not in datasets.names() and Path(name).is_dir():
        kinds = " or ".join(f"{one}:{name}" for one in ("imagefolder", "segfolder", "depthfolder"))
        raise UserError(f"'{name}' is a folder; say what it holds: {kinds}.")
    # A shell leaves the `~` of imagefolder:~/photos as it is.
    path = os.path.expanduser(path)
    kind = cast(type[Dataset], datasets.get(head))
    if kind.by_path and not path:
        raise UserError(f"{head} reads a folder of yours; name it, as {head}:PATH. Expected in it: {kind.layout}.")
    if split not in kind.splits:
        raise UserError(f"{head} has no split {split}; choose {' or '.join(kind.splits)}.")
    found = kind(Path(path or root), split, size)
    found.own_path, found.registered_name, found.data_root = path, registered_name(head), Path(root)
    lacking = [task for task in tasks if task not in found.labels]
    found.borrowed = label_sources(lacking, found.labels) if lacking else {}
    return found
