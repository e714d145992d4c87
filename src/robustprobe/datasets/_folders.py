"""Listing of images and label maps in folders, without opening a file."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from robustprobe.core.errors import UserError
from robustprobe.datasets._images import IMAGE_SUFFIXES


class ImageAndLabel(NamedTuple):
    """An image and its label map. `key` decides whether it belongs to the held-out part of train."""

    id: str
    image: Path
    label: Path
    key: str


def require(path: Path, layout: str) -> Path:
    """`path`, if it exists.

    Raises:
        UserError: it does not exist; the message describes the expected layout.
    """
    if not path.exists():
        raise UserError(f"no {path}; expected {layout}. Give the folder that holds the datasets with --data-root.")
    return path


def image_names(folder: Path) -> list[str]:
    """Sorted paths of the images below a folder, relative to it. Links are followed, hidden files are left out."""
    return sorted(_walk(folder, "", set()))


def _walk(folder: Path, prefix: str, above: set[str]) -> Iterator[str]:
    here = os.path.realpath(folder)
    if here in above:
        return  # a link to a folder that contains it
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                yield prefix + entry.name
            elif entry.is_dir():
                yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", above | {here})


def same_stems(images: Path, labels: Path, prefix: str = "") -> list[ImageAndLabel]:
    """Every image below one folder with the label map of the same name below another.

    Raises:
        UserError: an image without a label map, or two images of one name.
    """
    maps = _by_stem(labels)
    pairs = []
    for stem, name in _by_stem(images).items():
        if stem not in maps:
            raise UserError(f"{images / name} has no label map {labels / stem}.png. Add it, or remove the image.")
        pairs.append(ImageAndLabel(prefix + stem, images / name, labels / maps[stem], prefix + stem))
    return pairs


def _by_stem(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in image_names(folder):
        stem = os.path.splitext(name)[0]
        if stem in found:
            raise UserError(f"{folder} has both {found[stem]} and {name}; expected one file of that name. Remove one.")
        found[stem] = name
    return found
