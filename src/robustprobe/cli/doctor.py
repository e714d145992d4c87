"""`robustprobe doctor`: what this machine has, and what to do about what it lacks."""

import os
import shutil
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from robustprobe.cli._console import new_console


def doctor(*, data_root: Path = Path("data")) -> None:
    """Show machine, versions, caches and datasets found or missing.

    Parameters
    ----------
    data_root
        Folder that holds the datasets.
    """
    import torch

    from robustprobe.datasets import load_dataset
    from robustprobe.errors import UserError
    from robustprobe.probing import cache_folder
    from robustprobe.provenance import hardware, versions
    from robustprobe.registry import datasets

    table = Table(show_edge=False, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("machine", f"{hardware()}, torch uses {torch.get_num_threads()} threads")
    table.add_row(
        "accelerator", "CUDA" if torch.cuda.is_available() else "none: everything runs on the CPU, only slower"
    )
    table.add_row("versions", ", ".join(f"{name} {number}" for name, number in versions().items()))
    free = shutil.disk_usage(".").free / 2**30
    table.add_row("disk", f"{free:.0f} GiB free here")
    folder = cache_folder()
    heads = len(list((folder / "heads").glob("*.safetensors")))
    writable = os.access(folder if folder.exists() else folder.parent, os.W_OK)
    table.add_row("head cache", f"{folder}: {heads} heads{'' if writable else '; not writable: set ROBUSTPROBE_CACHE'}")
    for name in datasets.names():
        if getattr(datasets.get(name), "by_path", False):
            table.add_row(f"dataset {name}", f"your own data: {name}:PATH")
            continue
        try:
            found = f"found, {len(load_dataset(name, root=data_root))} test images"
        except UserError as error:
            found = f"missing: {error}"
        table.add_row(f"dataset {name}", escape(found))
    new_console().print(table)
