"""Listing of images and label maps in folders, without opening a file."""

import glob
import os
import unicodedata
from collections import Counter
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


def require(path: Path, layout: str, *, own: bool = False) -> Path:
    """`path`, if it exists.

    Args:
        own: whether it lies in a folder that was named itself, and not in the folder of all datasets.

    Raises:
        UserError: it does not exist; the message describes the expected layout.
    """
    if not path.exists():
        remedy = "" if own else " Give the folder that holds the datasets with --data-root."
        raise UserError(f"no {path}; expected {layout}.{remedy}")
    return path


def folders_found(folder: Path) -> str:
    """The first folders in a folder, or that it is none, for messages about what is missing in it."""
    if not folder.is_dir():
        return f" {folder} is a file." if folder.exists() else f" There is no {folder}."
    names = sorted(entry.name for entry in folder.iterdir() if not is_hidden(entry.name) and entry.is_dir())
    shown = ", ".join(names[:MOST_SHOWN]) + " ..." * (len(names) > MOST_SHOWN)
    return f" Found there: {shown}." if names else ""


def other_splits(folder: Path) -> list[str]:
    """A sentence on folders that are called as other programs call a split, where there are some."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    found = [name for name in names if name.lower() in SPLITS_ELSEWHERE and name not in SPLITS_ELSEWHERE.values()]
    return [f"the folder {name} is not read; call it {SPLITS_ELSEWHERE[name.lower()]}" for name in found]


def endings_below(folder: Path) -> str:
    """How many files of which endings lie below a folder, for messages that none of them is read; empty for none."""
    found = Counter(_ending(name) or "no ending" for name in _walk_below(folder)) if folder.is_dir() else Counter()
    shown = ", ".join(f"{count:,} of {ending}" for ending, count in found.most_common(3))
    return f" Files there: {shown}{' ...' * (len(found) > 3)}." if found else ""


SPLITS_ELSEWHERE = {
    **{"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val"},
    **{"test": "test", "testing": "test"},
}
"""What other programs call the splits, in lower case."""
MOST_SHOWN = 6
# What systems and programs leave in folders of images.
SYSTEM_FOLDERS = frozenset(
    ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__")
)
# Files that lie beside images and are none.
BESIDE_IMAGES = frozenset(
    f".{ending}"
    for ending in "txt json csv tsv xml yaml yml md html pdf py db ini log npy npz mat zip tar gz".split()  # noqa: SIM905
)


def is_hidden(name: str) -> bool:
    """Whether a name is hidden, or that of a folder of the system, such as `__MACOSX`."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC): some file systems keep accents apart from their letters."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def stored_path(path: Path) -> Path:
    """The path as the file system spells it, composed or not; `path` itself where there is no such file."""
    if str(path).isascii() or path.exists():
        return path
    spelled = (Path(unicodedata.normalize(form, str(path))) for form in ("NFC", "NFD"))
    return next((other for other in spelled if other.exists()), path)


def image_names(folder: Path) -> list[str]:
    """Sorted paths of the images below a folder, relative to it. Links are followed, but to a folder that contains
    this one; hidden files and those in folders of the system are left out.
    """
    return sorted((name for name in _walk_below(folder) if _ending(name) in IMAGE_SUFFIXES), key=composed)


def loose_images(folder: Path) -> list[str]:
    """Images in a folder itself, not below it."""
    with os.scandir(folder) as entries:
        files = [entry.name for entry in entries if not is_hidden(entry.name) and not entry.is_dir()]
    return [name for name in files if _ending(name) in IMAGE_SUFFIXES]


def skipped_images(folder: Path) -> str:
    """How many files below a folder are neither read nor known to lie beside images, by ending; empty where none."""
    found = Counter(_ending(name) for name in _walk_below(folder))
    skipped = {ending: count for ending, count in found.items() if ending not in IMAGE_SUFFIXES | BESIDE_IMAGES}
    return ", ".join(f"{count} of {ending}" for ending, count in sorted(skipped.items()) if ending)


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _walk_below(folder: Path) -> Iterator[str]:
    return _walk(folder, "", {os.path.realpath(parent) for parent in Path(os.path.abspath(folder)).parents})


def _walk(folder: Path, prefix: str, above: set[str]) -> Iterator[str]:
    here = os.path.realpath(folder)
    if here in above:
        return  # a link to a folder that contains it
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                continue
            if _ending(entry.name) not in IMAGE_SUFFIXES and entry.is_dir():
                yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", above | {here})
            else:
                yield prefix + entry.name


def same_stems(images: Path, labels: Path, prefix: str = "") -> list[ImageAndLabel]:
    """Every image below one folder with the label map of the same name below another.

    Raises:
        UserError: an image without a label map, or two images of one name.
    """
    maps = _by_stem(labels)
    pairs = []
    for stem, name in _by_stem(images).items():
        if stem not in maps:
            other = next(iter(sorted(labels.glob(f"{glob.escape(stem)}[._-]*"))), None)
            found = f" {other} is there: another name, or an ending that is not read." if other else ""
            raise UserError(
                f"{images / name} has no label map {labels / stem}.png.{found} Add it, or remove the image."
            )
        pairs.append(ImageAndLabel(prefix + stem, images / name, labels / maps[stem], prefix + stem))
    return pairs


def _by_stem(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in image_names(folder):
        stem = composed(os.path.splitext(name)[0])
        if stem in found:
            raise UserError(f"{folder} has both {found[stem]} and {name}; expected one file of that name. Remove one.")
        found[stem] = name
    return found
