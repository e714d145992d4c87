"""`robustprobe check`: does my encoder meet the contract, and are my clean scores the known ones?"""

import sys
from pathlib import Path

from rich.table import Table
from rich.text import Text

from robustprobe.cli._console import new_console


def encoder(spec: str, /, *, arch: str | None = None, offline: bool = False) -> None:
    """Check that an encoder meets the contract that attacks and heads rely on. Exit code 1 when a check fails.

    Parameters
    ----------
    spec
        The encoder as for `run`, such as timm:NAME.tag, hf:ORG/NAME, file:PATH or my.py:Class.
    arch
        Architecture of a checkpoint given as file:PATH: a timm name, or a short one such as dino_vitb16.
    offline
        Open no connection; weights must be on this machine.
    """
    from robustprobe.encoders import check_encoder, go_offline, load_encoder, with_arch

    if offline:
        go_offline()
    loaded = load_encoder(with_arch(spec, arch) if arch else spec)
    card = loaded.card
    console = new_console()
    console.print(f"{card.name}: patch size {card.patch_size}, images of {card.input_size}, licence {card.licence}")
    console.print(f"weights {loaded.digest}{f', revision {card.revision}' if card.revision else ''}", highlight=False)
    if card.notes:
        console.print(card.notes)
    table = Table(show_edge=False, pad_edge=False)
    for column in ("check", "result", "seen"):
        table.add_column(column, overflow="fold")
    found = check_encoder(loaded)
    for one in found:
        table.add_row(one.name, "passed" if one.passed else Text("failed", style="red"), one.seen)
    console.print(table)
    failed = sum(not one.passed for one in found)
    if failed:
        print(
            f"robustprobe: {failed} of {len(found)} checks failed; correct the encoder and try again.", file=sys.stderr
        )
        raise SystemExit(1)


def results(folder: Path, /, *, deacl: str | None = None) -> None:
    """Compare clean scores of known encoders with the published ones. Exit code 1 where one cannot be right.

    A clean score far from the published one means that the protocol is off, and robust scores mean nothing then.

    Parameters
    ----------
    folder
        A folder of results: the --out of `robustprobe run`.
    deacl
        The encoder that stands for the paper's DINO after DeACL; by default any whose card says so.
    """
    from robustprobe.report.references.clean_scores import clean_scores
    from robustprobe.results.store import Store

    found = clean_scores(Store(folder).records(), deacl)
    if not found:
        print(
            f"No clean score in {folder} is of an encoder and dataset with a published one. Known are the tables of "
            "Kowalczuk et al. 2024 (robustprobe run paper), and DINO, DINOv2 and EfficientNet-Lite on imagenet."
        )
        return
    table = Table(show_edge=False, pad_edge=False)
    for column in ("dataset", "encoder", "result", "seen"):
        table.add_column(column, overflow="fold")
    for one in found:
        result = "plausible" if one.plausible else Text("off", style="red")
        table.add_row(one.record.dataset, one.record.encoder, result, one.text)
    new_console().print(table)
    print(f"Published: {'; '.join(dict.fromkeys(one.source for one in found))}.")
    off = sum(not one.plausible for one in found)
    if off:
        print(
            f"robustprobe: {off} of {len(found)} clean scores cannot be right. Look at weights, normalisation, image "
            "size, labels and head recipe before anybody reads a robust score.",
            file=sys.stderr,
        )
        raise SystemExit(1)
