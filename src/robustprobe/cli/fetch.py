"""`robustprobe fetch`: everything a suite needs, before the machine that runs it goes offline."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from robustprobe.cli._console import new_console
from robustprobe.core.errors import UserError
from robustprobe.core.suites import find_suite, narrowed

if TYPE_CHECKING:
    from robustprobe.core.spec import Suite


def fetch(
    suite: str, /, *, data_root: Path = Path("data"), download: bool = False, only: list[str] | None = None
) -> None:
    """Download the weights that a suite needs, and say which of its datasets are there. Exit code 1 if one is missing.

    Parameters
    ----------
    suite
        A YAML file, or a name from `robustprobe list suites`.
    data_root
        Folder that holds the datasets.
    download
        Also download missing datasets, where torchvision offers them. Mind their licences.
    only
        Only encoders and datasets that match, such as cifar10 or 'dinov2*'. Can be given several times.
    """
    wanted = narrowed(find_suite(suite), only or [])
    console, missing = new_console(), []
    table = Table(show_edge=False, pad_edge=False)
    for column in ("needed", "state"):
        table.add_column(column, overflow="fold", no_wrap=column == "needed")
    for name, state, there in [*_weights(wanted), *_data(wanted, data_root, download)]:
        table.add_row(name, state if there else Text.assemble(("missing", "red"), f": {state}"))
        missing += [] if there else [name]
    console.print(table)
    if missing:
        print(f"robustprobe: missing: {', '.join(missing)}; get them as said, then fetch again.", file=sys.stderr)
        raise SystemExit(1)
    console.print("Everything is here: the suite runs with --offline.")


def _weights(suite: "Suite") -> list[tuple[str, str, bool]]:
    from robustprobe.encoders import load_encoder

    found = []
    texts = suite.head.zero_shot
    for name in dict.fromkeys([*suite.encoders, *suite.transfer_from]):
        try:
            encoder = load_encoder(name)
            if texts and texts.templates:
                # Brings the tokenizer, which images do not need.
                encoder.text_tower()
            revision = f", revision {encoder.card.revision}" if encoder.card.revision else ""
            found.append((name, f"ready, weights {encoder.digest[:16]}{revision}", True))
        except UserError as error:
            found.append((name, str(error), False))
    return found


def _data(suite: "Suite", root: Path, download: bool) -> list[tuple[str, str, bool]]:
    from robustprobe.datasets import find_dataset, load_dataset

    found = []
    for name, split in dict.fromkeys((dataset.name, dataset.split) for dataset in suite.datasets):
        # Heads are fitted on train.
        splits = ("train", split)
        try:
            try:
                counts = [len(load_dataset(name, root=root, split=one)) for one in splits]
            except UserError:
                if not download:
                    raise
                find_dataset(name, root=root).download()
                counts = [len(load_dataset(name, root=root, split=one)) for one in splits]
            told = " and ".join(f"{count:,} {one}" for count, one in zip(counts, splits, strict=True))
            found.append((name, f"ready, {told} images", True))
        except UserError as error:
            found.append((name, str(error), False))
    return found
