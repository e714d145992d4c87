"""`robustprobe submit` and `robustprobe verify`: results as one file for others, and such a file checked."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from robustprobe.cli._numbers import WholeNumber
from robustprobe.core.errors import UserError
from robustprobe.core.files import write_whole
from robustprobe.results.archive import pack, unpack
from robustprobe.results.store import Store
from robustprobe.results.union import finished, union_groups

if TYPE_CHECKING:
    from robustprobe.evaluation.verify import VerifiedCell

NOT_CONFIRMED = 3


def submit(folder: Path, /, *, out: Annotated[Path, Parameter(alias="-o")] = Path("submission.zip")) -> None:
    """Pack the results of a folder into one file to send, with the text of a pull request.

    Records, rows and example images are checked against their checksums first. Absolute paths and the name of the
    machine are left out. `robustprobe leaderboard` and `verify` read the file.

    Parameters
    ----------
    folder
        A folder of results: the --out of `robustprobe run`.
    out
        The ZIP file; the text is written beside it, with the ending .md.
    """
    from robustprobe.report.submission import submission_text

    found = finished([folder], "submit")
    groups = [(one.store, one.group) for one in union_groups([Store(folder)])]
    pack(found, groups, out)
    text = out.with_suffix(".md")
    try:
        write_whole(text, submission_text(found, out.name).encode())
    except OSError as error:
        raise UserError(f"{text} cannot be written: {error}. Give another file with --out.") from error
    print(f"{out}: {len(found)} cells and {len(groups)} groups of example images, {out.stat().st_size / 1e6:.1f} MB")
    print(f"{text}: the text of a pull request; results/README.md of the repository says how it is checked.")


def verify(
    results: Path,
    /,
    *,
    encoder: list[str] | None = None,
    dataset: list[str] | None = None,
    data_root: Path = Path("data"),
    device: str = "auto",
    images: WholeNumber = 6,
) -> None:
    """Judge the stored adversarial images of results again, and compare with the scores that were recorded.

    Each stored image has to be inside the ball around the clean one and to have the score of its row. Exit code 3 where
    one is outside, where more than one in twenty scores of a cell differ, or where the number of a record is not that
    of its rows.

    Parameters
    ----------
    results
        A folder of results, or a file that `robustprobe submit` wrote.
    encoder
        Encoder that was evaluated, where its name in the results is not the one by which it is loaded here. It is
        found by its digest. Can be given several times.
    dataset
        Dataset that was evaluated on, where its name is not that by which it is found here, such as imagefolder:PATH.
        Can be given several times.
    data_root
        Folder that holds the datasets, each in a folder of its name.
    device
        auto, cpu or cuda.
    images
        Stored images of each cell that are judged, at most.
    """
    import tempfile

    from robustprobe.core.device import find_device
    from robustprobe.evaluation.verify import Verifier

    with tempfile.TemporaryDirectory() as scratch:
        store = Store(results) if results.is_dir() else unpack(results, Path(scratch))
        verifier = Verifier(store, data_root, find_device(device), encoder or (), dataset or (), _warn)
        _show(verifier.verify(images))


def _warn(text: str) -> None:
    print(f"robustprobe: {text}", file=sys.stderr)


def _show(cells: "list[VerifiedCell]") -> None:
    for cell in cells:
        state = "confirmed" if cell.holds else "NOT confirmed"
        details = f"{cell.images} images, {cell.outside} outside of the ball, {cell.differing} scores differ"
        rows = "" if cell.counted else "; the number of the record is not that of its rows"
        print(f"{state}: {cell.label}: {details} (by at most {cell.largest:.3g}){rows}")
    failed = sum(not cell.holds for cell in cells)
    print(f"{len(cells) - failed} of {len(cells)} cells confirmed.")
    if failed:
        sys.exit(NOT_CONFIRMED)
