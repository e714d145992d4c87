"""Results on disk: one JSON and one Parquet a cell, example images beside them; whole or not there at all.

    DIR/cells/FINGERPRINT.json      the record: what was measured, on what, how, the number and its interval
    DIR/rows/FINGERPRINT.parquet    one row an image: id, perturbation size, the columns the metric is made of
    DIR/examples/GROUP/             group.json and, for a few images, what was attacked and what each head said

A record is written after its rows, so a record that is there is complete. Never imports torch.
"""

import hashlib
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from robustprobe.errors import UserError
from robustprobe.spec import AttackSpec

SCHEMA = 2
Stored = TypeVar("Stored", bound=BaseModel)


class Frozen(BaseModel):
    """A frozen part of a record; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Interval(Frozen):
    """A value with the ends of its 95 % interval."""

    value: float
    ci_low: float
    ci_high: float


class Provenance(Frozen):
    """Where a number comes from. Not part of what makes two records the same."""

    command: str
    started: str
    seconds: float
    versions: dict[str, str]
    git: str
    hardware: str
    device: str


class HeadFacts(Frozen):
    """The head that judged: its fingerprint, how it was chosen and what it was trained on."""

    fingerprint: str
    recipe: dict[str, Any]
    learning_rate: float
    held_out_score: float
    train_images: int
    reads: str = ""
    """Tokens it reads, and of how many of the last blocks."""
    view: str = ""
    """How the encoder is shown the images."""


class CheckFact(Frozen):
    """Whether something about a number is as it should be: what was measured, and what it means in a sentence."""

    name: str
    value: float
    passed: bool
    meaning: str


class Cost(Frozen):
    """Passes of an image through the attacked model, on average."""

    forwards: float
    backwards: float


class Record(Frozen):
    """One cell: a number, its interval, and what it was measured on."""

    schema_version: int = SCHEMA
    fingerprint: str
    group: str
    """Names the adversarial images: cells of one group judge the same ones."""
    suite: str
    encoder: str
    encoder_digest: str
    encoder_licence: str
    dataset: str
    dataset_digest: str
    split: str
    image_size: tuple[int, int] | int
    """(H, W) the images were attacked at, or their shorter side where shapes differ."""
    image_ids_digest: str
    task: str
    """The task whose head judged."""
    made_for: str
    """The task whose model was attacked; empty where no head was seen."""
    attack: AttackSpec
    precision: str
    metric: str
    unit: str
    higher_is_better: bool
    n: int
    metrics: dict[str, Interval]
    """The headline metric first."""
    metrics_8bit: dict[str, Interval]
    """The same after the adversarial images were rounded to 8 bits."""
    largest_perturbation: float
    checks: tuple[CheckFact, ...] = ()
    cost: Cost = Cost(forwards=0, backwards=0)
    head: HeadFacts
    rows_sha256: str
    provenance: Provenance

    @property
    def headline(self) -> Interval:
        return self.metrics[self.metric]


class Example(Frozen):
    """One image of a group as the page shows it; arrays lie beside as PNG files."""

    id: str
    place: int
    predictions: dict[str, Any]
    """By task: classification a list of [class, probability]; other tasks the name of a PNG file."""
    truth: dict[str, Any]


class Group(Frozen):
    """Example images of one encoder, dataset and attack."""

    group: str
    encoder: str
    dataset: str
    attack: AttackSpec
    made_for: str
    classes: dict[str, list[str]]
    max_depth: float
    examples: list[Example]


class Store:
    """A folder of results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> "Store":
        """Create the folder. Raises UserError where it cannot be written."""
        try:
            for name in ("cells", "rows", "examples"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder / "cells"):
                pass
        except OSError as error:
            raise UserError(
                f"results cannot be written to {self.folder}: {error}. Give another folder with --out."
            ) from error
        return self

    def records(self) -> list[Record]:
        """All records, in the order of their names.

        Raises:
            UserError: no such folder, or a record that cannot be read.
        """
        if not (self.folder / "cells").is_dir():
            raise UserError(f"no results in {self.folder}; give the folder that `robustprobe run --out` wrote.")
        return [self._parsed(Record, path) for path in sorted((self.folder / "cells").glob("*.json"))]

    def _parsed(self, kind: type[Stored], path: Path) -> Stored:
        try:
            return kind.model_validate_json(path.read_text())
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            raise UserError(f"{path} cannot be read: {error}. Delete it and run the same command again.") from error

    def has(self, fingerprint: str) -> bool:
        """Whether the cell's record is there, and the rows it vouches for."""
        record, rows = self._record_path(fingerprint), self._rows_path(fingerprint)
        if not (record.exists() and rows.exists()):
            return False
        try:
            stored = Record.model_validate_json(record.read_text())
            return stored.rows_sha256 == hashlib.sha256(rows.read_bytes()).hexdigest()
        except (OSError, UnicodeDecodeError, ValidationError):
            return False

    def rows(self, fingerprint: str) -> pa.Table:
        """The per-image rows of a cell."""
        return pq.read_table(self._rows_path(fingerprint))

    def write_rows(self, fingerprint: str, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> str:
        """Write a cell's rows; the SHA-256 of the file belongs into its record."""
        arrays = {name: _arrow(values) for name, values in columns.items()}
        buffer = io.BytesIO()
        pq.write_table(pa.table(arrays), buffer)
        write_whole(self._rows_path(fingerprint), buffer.getvalue())
        return hashlib.sha256(buffer.getvalue()).hexdigest()

    def write_record(self, record: Record) -> None:
        """Write a record; its rows must be there already."""
        write_whole(self._record_path(record.fingerprint), record.model_dump_json(indent=1).encode())

    def write_image(self, group: str, name: str, pixels: NDArray[Any]) -> None:
        """Write a PNG: (H, W, 3) uint8, (H, W) uint8 classes, or (H, W) uint16 millimetres."""
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        (self.folder / "examples" / group).mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "examples" / group / name, buffer.getvalue())

    def write_group(self, group: Group) -> None:
        """Write what ties the example images of a group together; the images must be there already."""
        (self.folder / "examples" / group.group).mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "examples" / group.group / "group.json", group.model_dump_json(indent=1).encode())

    def groups(self) -> list[Group]:
        """Every group with examples."""
        return [self._parsed(Group, p) for p in sorted((self.folder / "examples").glob("*/group.json"))]

    def image(self, group: str, name: str) -> Path:
        """Path of an example image."""
        return self.folder / "examples" / group / name

    def copy_cell(self, source: "Store", fingerprint: str) -> None:
        """Copy a cell from another store byte by byte, rows first."""
        for path in (Store._rows_path, Store._record_path):
            write_whole(path(self, fingerprint), path(source, fingerprint).read_bytes())

    def copy_group(self, source: "Store", group: str) -> None:
        """Copy the example images of a group from another store, what ties them together last."""
        files = sorted((source.folder / "examples" / group).glob("[!.]*"), key=lambda p: p.name == "group.json")
        (self.folder / "examples" / group).mkdir(parents=True, exist_ok=True)
        for file in files:
            write_whole(self.folder / "examples" / group / file.name, file.read_bytes())

    def _record_path(self, fingerprint: str) -> Path:
        return self.folder / "cells" / f"{fingerprint}.json"

    def _rows_path(self, fingerprint: str) -> Path:
        return self.folder / "rows" / f"{fingerprint}.parquet"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all: temporary file, fsync, rename."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    # Temporary files are private; results are as readable as any other file of the user's.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _arrow(values: Sequence[Any] | NDArray[Any]) -> pa.Array:
    array = np.asarray(values)
    return pa.array(list(array)) if array.ndim == 2 else pa.array(array)
