"""The user's own images with label maps: `images/SPLIT`, and a folder of maps with the same names."""

import os
from collections.abc import Sequence
from pathlib import Path

from robustprobe.core.errors import UserError
from robustprobe.core.images import opened
from robustprobe.datasets._folders import (
    ImageAndLabel,
    composed,
    folders_found,
    image_names,
    require,
    same_stems,
    skipped_images,
)
from robustprobe.datasets._images import Size
from robustprobe.datasets.base import SPLITS, Split


def found_splits(folder: Path, layout: str) -> list[Split]:
    """The splits that have a folder of images. Raises UserError if there is none."""
    found = [split for split in SPLITS if (folder / "images" / split).is_dir()]
    if not found:
        there = folders_found(folder / "images") or folders_found(folder)
        raise UserError(f"no images/train, images/val or images/test in {folder}; expected {layout}.{there}")
    return found


def own_pairs(folder: Path, maps: str, split: Split, layout: str) -> list[ImageAndLabel]:
    """The images of a split and their maps. Raises UserError for a missing folder or map."""
    images, labels = (require(folder / kind / split, layout, own=True) for kind in ("images", maps))
    return same_stems(images, labels, f"{split}/")


def unpaired_maps(folder: Path, maps: str) -> list[str]:
    """A sentence on the maps of each split that have no image, where there are some."""
    found = []
    for split in SPLITS:
        images, labels = (folder / kind / split for kind in ("images", maps))
        if images.is_dir() and labels.is_dir():
            left = _stems(labels) - _stems(images)
            found += [f"{len(left)} files in {maps}/{split} have no image and are not read"] if left else []
    return found


def _stems(folder: Path) -> set[str]:
    return {composed(os.path.splitext(name)[0]) for name in image_names(folder)}


def skipped_files(folders: Sequence[Path]) -> list[str]:
    """A sentence on the files in these folders that are not read, where there are some."""
    told = [(folder, skipped_images(folder)) for folder in folders if folder.is_dir()]
    return [f"{files} in {folder.name} are not read; convert them to PNG" for folder, files in told if files]


def first_size(folder: Path, layout: str) -> Size:
    """Size (H, W) of the first image of the first split. Raises UserError if there is none, or it cannot be read."""
    images = folder / "images" / found_splits(folder, layout)[0]
    names = image_names(images)
    if not names:
        raise UserError(f"{images} has no images; expected {layout}.")
    try:
        with opened(images / names[0]) as image:
            return image.height, image.width
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{images / names[0]} cannot be read: {error}. Replace the file.") from error
