"""Results beside the paper's tables, a published reference, other results, or another encoder of the same folder."""

from collections.abc import Sequence
from pathlib import Path

from robustprobe.core.errors import UserError
from robustprobe.report.references.catalogue import find_reference, references
from robustprobe.report.tables.comparison import Comparison
from robustprobe.results.store import Store

PAPER = "paper"


def is_published(name: str | Path | Store | None) -> bool:
    """Whether that names the paper or a published reference, which have numbers but no images."""
    return isinstance(name, str) and (name == PAPER or name in references())


def compare_results(
    first: Store, other: str | Path | Store | None, encoders: Sequence[str] = (), deacl: str | None = None
) -> Comparison:
    """Every number of a store beside its counterpart.

    Args:
        first: a store with records.
        other: `paper`, the name of a reference, a folder or store of results, or None for `first` itself.
        encoders: names of two encoders, or beginnings of their digests; the first of `first`, the second of `other`.
        deacl: with `paper`, the encoder that stands for the paper's DINO after DeACL.

    Raises:
        UserError: nothing to compare with, unknown names, no results, or options that do not go together.
    """
    _check_finished(first)
    if other is None and len(encoders) != 2:
        raise UserError(
            f"{first} alone has nothing to compare with; give another folder, `{PAPER}`, or two of its "
            f"encoders: --encoder A --encoder B. It holds {', '.join(sorted({r.encoder for r in first.records()}))}."
        )
    if other == PAPER:
        return _beside_paper(first, encoders, deacl)
    if deacl is not None:
        raise UserError(f"--deacl names an encoder of the paper, and {other} is not `{PAPER}`; leave it away.")
    if isinstance(other, str) and other in references():
        _check_no_encoders(other, encoders)
        from robustprobe.report.references.beside import beside_reference

        return beside_reference(other, find_reference(other), first.records())
    from robustprobe.report.tables.compare_folders import compare_folders

    return compare_folders(first, first if other is None else _store(other), encoders)


def _beside_paper(first: Store, encoders: Sequence[str], deacl: str | None) -> Comparison:
    _check_no_encoders(PAPER, encoders)
    from robustprobe.report.paper.compare import compare_paper

    return compare_paper(first.records(), deacl)


def _check_no_encoders(name: str, encoders: Sequence[str]) -> None:
    if encoders:
        raise UserError(f"--encoder is for folders, and `{name}` has encoders of its own; leave it away.")


def _store(other: str | Path | Store) -> Store:
    if not isinstance(other, Store):
        if not Path(other).is_dir():
            raise UserError(
                f"'{other}' is neither a folder of results nor `{PAPER}` nor one of `robustprobe list references`."
            )
        other = Store(Path(other))
    _check_finished(other)
    return other


def _check_finished(store: Store) -> None:
    if not store.records():
        raise UserError(f"no finished cells in {store}, so there is nothing to compare; run the suite first.")
