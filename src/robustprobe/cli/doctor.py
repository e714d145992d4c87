"""`robustprobe doctor`: what this machine has, and what to do about what it lacks."""

import os
import shutil
import sys
from pathlib import Path

from rich.table import Table

from robustprobe.cli._console import new_console


def doctor(
    *,
    data_root: Path = Path("data"),
    cluster: bool = False,
    ray_address: str = "auto",
    encoder: list[str] | None = None,
) -> None:
    """Show the machine, versions, caches, and datasets found or missing.

    Parameters
    ----------
    data_root
        Folder that holds the datasets.
    cluster
        Show the machines of a Ray cluster instead, and in what they differ.
    ray_address
        With --cluster: its address, such as auto or HOST:PORT.
    encoder
        With --cluster: encoder whose weights every machine should have. Can be given several times.
    """
    if cluster:
        _cluster(ray_address, data_root, encoder or [])
        return
    import torch

    from robustprobe.core.errors import UserError
    from robustprobe.core.files import cache_folder
    from robustprobe.core.registry import datasets
    from robustprobe.datasets import load_dataset
    from robustprobe.results.provenance import hardware, versions

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
        table.add_row(f"dataset {name}", found)
    new_console().print(table)


def _cluster(address: str, root: Path, encoders: list[str]) -> None:
    """Exit code 2 where machines differ in what numbers depend on."""
    from robustprobe.evaluation.executors.cluster import differing, nodes

    console, found = new_console(), nodes(address, root, encoders)
    table = Table(show_edge=False, pad_edge=False)
    for column in ("machine", "CPUs", "GPUs", "processor", "accelerator"):
        table.add_column(column, overflow="fold")
    for node in found:
        counts = (f"{node.resources[key]:.0f}" for key in ("CPU", "GPU"))
        table.add_row(node.name, *counts, node.facts["processor"], node.facts["accelerator"])
    console.print(table)
    differences = differing(found)
    for fact, values in differences.items():
        told = "; ".join(f"{value} on {', '.join(names)}" for value, names in values.items())
        console.print(f"differs: {fact}: {told}", soft_wrap=True)
    everywhere = {k: v for k, v in found[0].facts.items() if k not in differences}
    for fact, value in everywhere.items():
        console.print(f"{fact}: {value}", soft_wrap=True)
    if differences:
        console.print(
            "Make the machines equal; else workers may be refused, and numbers may differ by rounding.", soft_wrap=True
        )
        sys.exit(2)
