"""Results on disk: one JSON and one Parquet file per cell, and example images; each written whole or not at all.

    DIR/cells/FINGERPRINT.json      the record: what was measured, on what, how, the number and its interval
    DIR/rows/FINGERPRINT.parquet    one row per image: id, size of the perturbation, columns of the metrics
    DIR/examples/GROUP/             group.json and, for a few images, clean and attacked image and the predictions

A record is written after its rows, so an existing record is complete. Records and groups hold checksums of themselves
and of their files: a changed file is found, named and measured again. Neither clocks nor locks are needed for this: two
runs that write the same cell both write it whole. Never imports torch.
"""

import errno
import hashlib
import io
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from robustprobe.core.errors import UnwritableError, UserError
from robustprobe.core.files import sweep, write_all, write_whole
from robustprobe.results.example_images import Group
from robustprobe.results.records import Record
from robustprobe.results.sealing import Stored, read_sealed, sealed

ROOMS = ("cells", "rows", "examples")


class Store:
    """A folder of results, or the part of one: with `only`, records and groups are those of the cells it names.

    As text it is its folder, or `name` where the folder is a temporary one, which names nothing.

    Methods that write raise UserError if the disk is full or read-only; all files written before are whole.
    """

    def __init__(self, folder: Path, only: Collection[str] | None = None, name: str = "") -> None:
        self.folder, self.only, self.name = folder, only, name
        self._whole_groups: set[str] = set()

    def __str__(self) -> str:
        return self.name or str(self.folder)

    def prepare(self) -> "Store":
        """Create the folder and remove temporary files of killed runs. Raises UserError if it is read-only."""
        try:
            for name in ROOMS:
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder / "cells"):
                pass
        except OSError as error:
            raise UserError(
                f"results cannot be written to {self.folder}: {error}. Give another folder with --out."
            ) from error
        sweep([*(self.folder / name for name in ROOMS), *(self.folder / "examples").iterdir()])
        return self

    @contextmanager
    def kept_if_used(self, create: bool = True) -> Iterator["Store"]:
        """Context of a run: the folder is prepared, and what was created for it is removed where it stayed empty.

        Args:
            create: False leaves the folder as it is, for a look at what a run would do.
        """
        if not create:
            yield self
            return
        rooms = [self.folder / name for name in ROOMS]
        new = [path for path in (*reversed(self.folder.parents), self.folder, *rooms) if not path.exists()]
        try:
            yield self.prepare()
        finally:
            for path in reversed(new):
                # Folders with files in them stay.
                with suppress(OSError):
                    path.rmdir()

    def records(self) -> list[Record]:
        """All records, or those of the cells in `only`, sorted by fingerprint.

        Raises:
            UserError: no such folder, or a record that is unreadable or damaged.
        """
        if not (self.folder / "cells").is_dir():
            raise UserError(f"no results in {self.folder}; give the folder that `robustprobe run --out` wrote.")
        paths = sorted((self.folder / "cells").glob("*.json"), key=str)
        return [self._parsed(Record, path) for path in paths if self.only is None or path.stem in self.only]

    def _parsed(self, kind: type[Stored], path: Path) -> Stored:
        try:
            return read_sealed(kind, path)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read: {error}. Nothing else is affected. Delete it, or leave it where it is, and "
                f"run the suite it belongs to again with --out {self.folder}: it measures what is missing or damaged."
            ) from error

    def has(self, fingerprint: str) -> bool:
        """Whether a cell has a record whose rows and examples exist and match its checksums."""
        return self.whole_record(fingerprint) is not None

    def whole_record(self, fingerprint: str) -> Record | None:
        """The record of a cell whose rows and examples exist and match its checksums; None where there is none."""
        path = self._record_path(fingerprint)
        if not path.exists():
            return None
        try:
            record = read_sealed(Record, path)
        except (OSError, ValueError):
            return None
        return record if record.fingerprint == fingerprint and self.damaged(record) is None else None

    def damaged(self, record: Record) -> Path | None:
        """The first file of a cell beside its record that is missing or does not match its checksum, if any."""
        rows = self.rows_path(record.fingerprint)
        if not _is(rows, record.rows_sha256):
            return rows
        return self._damaged_example(record.group)

    def _damaged_example(self, group: str) -> Path | None:
        """The first damaged file of a group; None also for a group without a folder, since examples are optional."""
        folder = self.folder / "examples" / group
        if group in self._whole_groups or not folder.is_dir():
            return None
        try:
            digests = read_sealed(Group, folder / "group.json").digests
        except (OSError, ValueError):
            return folder / "group.json"
        found = next((folder / name for name, digest in digests.items() if not _is(folder / name, digest)), None)
        if found is None:
            self._whole_groups.add(group)
        return found

    def rows(self, fingerprint: str) -> pa.Table:
        """The rows of a cell, one per image. Raises UserError if the file cannot be read."""
        path = self.rows_path(fingerprint)
        try:
            table = pq.read_table(path)
            table.validate(full=True)
            table.schema.names  # noqa: B018 - raises if they are not text
            return table
        except (OSError, ValueError, pa.ArrowException) as error:
            raise UserError(
                f"{path} cannot be read: {error}. Run its suite again: it measures the cell again."
            ) from error

    def write_rows(self, fingerprint: str, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> str:
        """Write the rows of a cell and return the SHA-256 of the file, which belongs in its record."""
        arrays = {name: _arrow(values) for name, values in columns.items()}
        buffer = io.BytesIO()
        pq.write_table(pa.table(arrays), buffer)
        return self._write(self.rows_path(fingerprint), buffer.getvalue())

    def write_record(self, record: Record) -> None:
        """Write a record; its rows must exist already."""
        self._write(self._record_path(record.fingerprint), sealed(record))

    def write_image(self, group: str, name: str, pixels: NDArray[Any]) -> str:
        """Write a PNG: (H, W, 3) uint8, (H, W) uint8 classes, or (H, W) uint16 millimetres.

        Returns:
            SHA-256 of the file, which belongs in the group's digests.
        """
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        return self._write(self.folder / "examples" / group / name, buffer.getvalue())

    def write_group(self, group: Group) -> None:
        """Write the description of a group of example images; the images must exist already."""
        self._whole_groups.discard(group.group)
        self._write(self.folder / "examples" / group.group / "group.json", sealed(group))

    def _write(self, path: Path, content: bytes) -> str:
        with self.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
        return hashlib.sha256(content).hexdigest()

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Context for writes to the folder. Raises UnwritableError if the disk is full or read-only."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "Free some space there" if full else "Make that folder writable, or give another with --out"
            raise UnwritableError(
                f"{path} cannot be written: {error.strerror or error}. Finished cells are whole and safe in "
                f"{self.folder}; no file is half written. {remedy}; then the same command continues with "
                "what is missing."
            ) from error

    def group(self, name: str) -> Group | None:
        """The examples of a group, or None if it has none. Raises UserError if they cannot be read."""
        path = self.folder / "examples" / name / "group.json"
        return self._parsed(Group, path) if path.exists() else None

    def groups(self) -> list[Group]:
        """Every group with examples that belongs to the cells."""
        wanted = None if self.only is None else {record.group for record in self.records()}
        paths = sorted((self.folder / "examples").glob("*/group.json"))
        return [self._parsed(Group, path) for path in paths if wanted is None or path.parent.name in wanted]

    def image(self, group: str, name: str) -> Path:
        """Path of an example image. Raises UserError for a name that a run never uses."""
        if not (re.fullmatch(r"[\w-]+\.(png|json)", name) and re.fullmatch(r"[\w-]+", group)):
            raise UserError(
                f"{self.folder} names an example image '{group}/{name}', which may point outside it; refused."
            )
        return self.folder / "examples" / group / name

    def copy_cells(self, cells: Sequence[tuple["Store", str]]) -> None:
        """Copy cells of other stores byte by byte, rows first."""
        both = (Store.rows_path, Store._record_path)
        with self.writing(self.folder):
            write_all((path(self, name), path(source, name).read_bytes) for path in both for source, name in cells)

    def copy_group(self, source: "Store", group: str) -> None:
        """Copy the example images of a group from another store, then their description."""
        files = sorted((source.folder / "examples" / group).glob("[!.]*"), key=lambda p: p.name == "group.json")
        for file in files:
            if file.is_symlink():
                raise UserError(f"{file} is a link, which a run never writes; it is not copied. Remove it.")
            self._write(self.folder / "examples" / group / file.name, file.read_bytes())

    def _record_path(self, fingerprint: str) -> Path:
        return self.folder / "cells" / f"{fingerprint}.json"

    def rows_path(self, fingerprint: str) -> Path:
        """The file of the rows of a cell."""
        return self.folder / "rows" / f"{fingerprint}.parquet"


def _is(path: Path, digest: str) -> bool:
    """Whether a file has that SHA-256."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except OSError:
        return False


def _arrow(values: Sequence[Any] | NDArray[Any]) -> pa.Array:
    array = np.asarray(values)
    return pa.array(list(array)) if array.ndim == 2 else pa.array(array)
