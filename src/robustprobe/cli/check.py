"""`robustprobe check encoder`: does my encoder meet the contract?"""

import sys

from rich.table import Table

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
        console.print(card.notes, markup=False)
    table = Table(show_edge=False, pad_edge=False)
    for column in ("check", "result", "seen"):
        table.add_column(column, overflow="fold")
    found = check_encoder(loaded)
    for one in found:
        table.add_row(one.name, "passed" if one.passed else "[red]failed[/red]", one.seen)
    console.print(table)
    failed = sum(not one.passed for one in found)
    if failed:
        print(
            f"robustprobe: {failed} of {len(found)} checks failed; correct the encoder and try again.", file=sys.stderr
        )
        raise SystemExit(1)
