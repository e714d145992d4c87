"""`robustprobe export`: results for other programs and places."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from robustprobe.core.errors import UserError
from robustprobe.core.files import write_whole
from robustprobe.results.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS = (".parquet", ".csv")


def rows(
    folder: Path, /, *, out: Annotated[Path, Parameter(alias="-o")] = Path("rows.parquet"), transfer: bool = False
) -> None:
    """Write the scores of all images as one tidy table: a row per image, encoder and attack.

    Parameters
    ----------
    folder
        A folder of results: the --out of `robustprobe run`.
    out
        File to write, .parquet or .csv.
    transfer
        Also write scores under attacks that were made for another task.
    """
    if out.suffix not in ENDINGS:
        raise UserError(f"'{out}' ends in '{out.suffix}'; give a file that ends in {' or '.join(ENDINGS)}.")
    from robustprobe.report.tables.tidy import tidy_rows

    table = tidy_rows(Store(folder), transfer=transfer)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, _written(table, out.suffix))
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error}. Give another file with --out.") from error
    print(f"{out}: {table.num_rows:,} rows, {table.num_columns} columns")


def images(folder: Path, /, *, out: Annotated[Path, Parameter(alias="-o")] = Path("images")) -> None:
    """Write the stored adversarial images as PNG files, and a table that says what each is.

    Images are those that the page shows; `run --examples N` stores more of each attack. `robustprobe verify` judges
    them again.

    Parameters
    ----------
    folder
        A folder of results: the --out of `robustprobe run`.
    out
        Folder to write: a folder per attack, and images.csv with a row per image and task.
    """
    from robustprobe.report.image_files import TABLE, write_images

    count = write_images(folder, out)
    print(f"{out}: {count} images; {TABLE} says what each is")


def hub(
    folder: Path,
    /,
    *,
    out: Annotated[Path, Parameter(alias="-o")] = Path("hub"),
    encoder: str = "",
    dataset_id: list[str] | None = None,
) -> None:
    """Write results for a model's page on the Hugging Face Hub: a model card with model-index, and BibTeX.

    Parameters
    ----------
    folder
        A folder of results: the --out of `robustprobe run`.
    out
        Folder to write, to be copied into the repository of the model.
    encoder
        Its name in the results; needed where they have several.
    dataset_id
        What the Hub calls a dataset, such as cifar10=uoft-cs/cifar10: its results go to .eval_results too. Can be given
        several times.
    """
    from robustprobe.report.hub_card import write_hub

    pairs = [given.partition("=") for given in dataset_id or []]
    for name, sign, place in pairs:
        if not (name and sign and place.count("/") == 1):
            raise UserError(
                f"--dataset-id '{name}{sign}{place}' is no NAME=OWNER/DATASET, such as cifar10=uoft-cs/cifar10."
            )
    files = write_hub(folder, out, encoder, {name: place for name, _, place in pairs})
    print(f"{out}: {', '.join(files)}")


def _written(table: "pa.Table", ending: str) -> bytes:
    import pyarrow as pa
    from pyarrow import csv, parquet

    sink = pa.BufferOutputStream()
    if ending == ".csv":
        csv.write_csv(table, sink)
    else:
        parquet.write_table(table, sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content
