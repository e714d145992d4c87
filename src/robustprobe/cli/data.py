"""`robustprobe data`: check a dataset's folder, download it, list its images."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from robustprobe.cli._console import new_console
from robustprobe.cli._numbers import WholeNumber
from robustprobe.core.errors import UserError

if TYPE_CHECKING:
    from robustprobe.datasets import Dataset, Findings, SplitFindings


def check(name: str, /, *, data_root: Path = Path("data"), full: bool = False) -> None:
    """Compare a dataset's folder with the official one, and read a sample of it. Exit code 1 if something is wrong.

    Parameters
    ----------
    name
        A dataset, such as ade20k or segfolder:PATH.
    data_root
        Folder that holds the datasets.
    full
        Read every image, not only 64 of each split.
    """
    from robustprobe.datasets import SAMPLE, check_dataset

    found = check_dataset(name, data_root, sample=None if full else SAMPLE)
    _show_terms(found.dataset)
    if any(part.ids for part in found.splits):
        _show_splits(found)
    for note in found.notes:
        print(f"note: {note}")
    if found.wrong:
        raise UserError(f"{name} is not as expected. {found.wrong[0]}")
    print("nothing wrong was found" + ("." if full else f" in the sample; --full reads every image of {name}."))


def _show_splits(found: "Findings") -> None:
    table = Table(show_edge=False, pad_edge=False)
    for column in ("split", "images", "official", "read", "height x width", "labels"):
        table.add_column(column, justify="right" if column in ("images", "official", "read") else "left")
    for part in found.splits:
        official = found.dataset.counts.get(part.split, ())
        table.add_row(
            part.split,
            f"{len(part.ids):,}",
            " or ".join(f"{count:,}" for count in official) or "-",
            f"{part.looked_at:,}",
            _sizes(part),
            "; ".join(f"{task} {label}" for task, label in part.labels.items() if part.looked_at),
        )
    new_console().print(table)
    if "val" not in found.dataset.counts and found.dataset.counts:
        print("val is a tenth of the official train, the same for everyone.")


def ids(name: str, /, *, split: str = "test", limit: WholeNumber | None = None, data_root: Path = Path("data")) -> None:
    """Print the ids of the images that a limit takes: the same ones for every encoder and attack.

    Parameters
    ----------
    name
        A dataset, such as ade20k or segfolder:PATH.
    split
        train, val or test.
    limit
        Number of images; all by default.
    data_root
        Folder that holds the datasets.
    """
    from robustprobe.datasets import load_dataset

    print("\n".join(load_dataset(name, root=data_root, split=split, limit=limit).kept_ids))


def download(name: str, /, *, data_root: Path = Path("data")) -> None:
    """Show licence and citation, then download the official archive, where torchvision offers it.

    Parameters
    ----------
    name
        A dataset, such as cifar10.
    data_root
        Folder that holds the datasets; the files go to a folder of the dataset's name.
    """
    from robustprobe.datasets import find_dataset

    dataset = find_dataset(name, root=data_root)
    _show_terms(dataset)
    dataset.download()
    print(f"{name} is in {dataset.folder}; `robustprobe data check {name} --data-root {data_root}` reads it.")


def _show_terms(dataset: "Dataset") -> None:
    for term, text in (
        ("licence", dataset.licence),
        ("cite", dataset.citation),
        ("published at", dataset.homepage),
        ("folder", str(dataset.folder) if dataset.folder.exists() else ""),
    ):
        if text:
            print(f"{term}: {text}")


def _sizes(part: "SplitFindings") -> str:
    if not part.sizes:
        return ""
    low, high = min(part.sizes), max(part.sizes)
    return f"{low[0]} x {low[1]}" + (f" to {high[0]} x {high[1]}, {len(part.sizes)} sizes" if low != high else "")
