"""Results on disk: one JSON and one Parquet a cell, example images beside them; whole or not there at all.

    DIR/cells/FINGERPRINT.json      the record: what was measured, on what, how, the number and its interval
    DIR/rows/FINGERPRINT.parquet    one row an image: id, perturbation size, the columns the metric is made of
    DIR/examples/GROUP/             group.json and, for a few images, what was attacked and what each head said

A record is written after its rows, so a record that is there is complete. Records and groups hold a digest of
themselves and of the files beside them: what was changed since is found, named and measured again. No clock is asked
for any of this, and no lock: two runs that write one cell both write a whole one. Never imports torch.
"""

import errno
import hashlib
import io
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from robustprobe.core.errors import UnwritableError, UserError
from robustprobe.core.files import sweep, write_all, write_whole
from robustprobe.results.records import Group, Record
from robustprobe.results.sealing import Stored, read_sealed, sealed

ROOMS = ("cells", "rows", "examples")


class Store:
    """A folder of results.

    What writes raises UserError where the disk does not take it: all that was written before is whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._whole_groups: set[str] = set()

    def prepare(self) -> "Store":
        """Create the folder, and remove what a killed run left half written. Raises UserError where it is read-only."""
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

    def records(self) -> list[Record]:
        """All records, in the order of their names.

        Raises:
            UserError: no such folder, or a record that cannot be read or is not as it was written.
        """
        if not (self.folder / "cells").is_dir():
            raise UserError(f"no results in {self.folder}; give the folder that `robustprobe run --out` wrote.")
        return [self._parsed(Record, path) for path in sorted((self.folder / "cells").glob("*.json"), key=str)]

    def _parsed(self, kind: type[Stored], path: Path) -> Stored:
        try:
            return read_sealed(kind, path)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read: {error}. Nothing else is affected. Delete it, or leave it where it is, and "
                f"run the suite it belongs to again with --out {self.folder}: it measures what is missing or damaged."
            ) from error

    def has(self, fingerprint: str) -> bool:
        """Whether the cell's record is there, and all that it vouches for, as they were written."""
        path = self._record_path(fingerprint)
        if not path.exists():
            return False
        try:
            record = read_sealed(Record, path)
        except (OSError, ValueError):
            return False
        return record.fingerprint == fingerprint and self.damaged(record) is None

    def damaged(self, record: Record) -> Path | None:
        """The first file of a cell beside its record that is missing or not as it was written, if there is one."""
        rows = self._rows_path(record.fingerprint)
        if not _is(rows, record.rows_sha256):
            return rows
        return self._damaged_example(record.group)

    def _damaged_example(self, group: str) -> Path | None:
        """None too for a group without a folder: a run need not keep examples."""
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
        """The per-image rows of a cell. Raises UserError where the file cannot be read."""
        path = self._rows_path(fingerprint)
        try:
            table = pq.read_table(path)
            table.validate(full=True)
            table.schema.names  # noqa: B018 - they need not be text
            return table
        except (OSError, ValueError, pa.ArrowException) as error:
            raise UserError(
                f"{path} cannot be read: {error}. Run its suite again: it measures the cell anew."
            ) from error

    def write_rows(self, fingerprint: str, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> str:
        """Write a cell's rows; the SHA-256 of the file belongs into its record."""
        arrays = {name: _arrow(values) for name, values in columns.items()}
        buffer = io.BytesIO()
        pq.write_table(pa.table(arrays), buffer)
        return self._write(self._rows_path(fingerprint), buffer.getvalue())

    def write_record(self, record: Record) -> None:
        """Write a record; its rows must be there already."""
        self._write(self._record_path(record.fingerprint), sealed(record))

    def write_image(self, group: str, name: str, pixels: NDArray[Any]) -> str:
        """Write a PNG: (H, W, 3) uint8, (H, W) uint8 classes, or (H, W) uint16 millimetres.

        Returns:
            SHA-256 of the file, which belongs into the group's digests.
        """
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        return self._write(self.folder / "examples" / group / name, buffer.getvalue())

    def write_group(self, group: Group) -> None:
        """Write what ties the example images of a group together; the images must be there already."""
        self._whole_groups.discard(group.group)
        self._write(self.folder / "examples" / group.group / "group.json", sealed(group))

    def _write(self, path: Path, content: bytes) -> str:
        with self.writing(path):
            path.parent.mkdir(exist_ok=True)
            write_whole(path, content)
        return hashlib.sha256(content).hexdigest()

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Around what writes in the folder of results. Raises UnwritableError where the disk does not take it."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            mend = "Free some space there" if full else "Make that folder writable, or give another with --out"
            raise UnwritableError(
                f"{path} cannot be written: {error.strerror or error}. Finished cells are whole and safe in "
                f"{self.folder}, and nothing is left half written. {mend}; then the same command continues, doing only "
                "what is missing."
            ) from error

    def group(self, name: str) -> Group | None:
        """The examples of a group, None where it has none. Raises UserError where they cannot be read."""
        path = self.folder / "examples" / name / "group.json"
        return self._parsed(Group, path) if path.exists() else None

    def groups(self) -> list[Group]:
        """Every group with examples."""
        return [self._parsed(Group, p) for p in sorted((self.folder / "examples").glob("*/group.json"))]

    def image(self, group: str, name: str) -> Path:
        """Path of an example image. Raises UserError for a name that no run gives one."""
        if not (re.fullmatch(r"[\w-]+\.(png|json)", name) and re.fullmatch(r"[\w-]+", group)):
            raise UserError(
                f"{self.folder} names an example image '{group}/{name}', which may lead out of it; refused."
            )
        return self.folder / "examples" / group / name

    def copy_cells(self, cells: Sequence[tuple["Store", str]]) -> None:
        """Copy cells of other stores byte by byte, rows first."""
        both = (Store._rows_path, Store._record_path)
        with self.writing(self.folder):
            write_all((path(self, name), path(source, name).read_bytes) for path in both for source, name in cells)

    def copy_group(self, source: "Store", group: str) -> None:
        """Copy the example images of a group from another store, what ties them together last."""
        files = sorted((source.folder / "examples" / group).glob("[!.]*"), key=lambda p: p.name == "group.json")
        for file in files:
            if file.is_symlink():
                raise UserError(f"{file} is a link, which a run never writes; it is not copied. Remove it.")
            self._write(self.folder / "examples" / group / file.name, file.read_bytes())

    def _record_path(self, fingerprint: str) -> Path:
        return self.folder / "cells" / f"{fingerprint}.json"

    def _rows_path(self, fingerprint: str) -> Path:
        return self.folder / "rows" / f"{fingerprint}.parquet"


def _is(path: Path, digest: str) -> bool:
    """Whether a file has the content of that SHA-256."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except OSError:
        return False


def _arrow(values: Sequence[Any] | NDArray[Any]) -> pa.Array:
    array = np.asarray(values)
    return pa.array(list(array)) if array.ndim == 2 else pa.array(array)
