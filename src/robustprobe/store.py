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
from typing import Annotated, Any, Literal, TypeVar, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator

from robustprobe.errors import UnwritableError, UserError
from robustprobe.files import sweep, write_all
from robustprobe.files import write_whole as write_whole
from robustprobe.spec import AttackSpec

SCHEMA = 2
Stored = TypeVar("Stored", bound=BaseModel)


# Names of files: one that leads elsewhere is no name.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,80}$")]
PictureName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,80}\.png$")]


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
    peak_memory: int | None = None
    """Most bytes held while the images were attacked and judged: on a GPU of tensors there, on a CPU by the process;
    None where that is not known.
    """


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
    fingerprint: Name
    group: Name
    """Names the adversarial images: cells of one group judge the same ones."""
    suite: str
    encoder: str
    encoder_digest: str
    encoder_licence: str
    encoder_teacher: str = ""
    """Name of the encoder that it was hardened from, where its card says so."""
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

    @model_validator(mode="after")
    def _has_its_metric(self) -> "Record":
        if self.metric not in self.metrics:
            raise ValueError(f"metrics has no {self.metric}")
        return self

    @property
    def headline(self) -> Interval:
        return self.metrics[self.metric]

    @property
    def images_of(self) -> str:
        """The dataset, and its split where that is not `test`."""
        return self.dataset if self.split == "test" else f"{self.dataset} {self.split}"


ChoiceKind = Literal["random", "most harmed", "barely broken", "survived"]
CHOICE_KINDS: tuple[ChoiceKind, ...] = get_args(ChoiceKind)
"""In the order in which images are shown."""


class Choice(Frozen):
    """Why an image is an example: drawn at random, or for what an attack made for `task` did to it on `encoder`."""

    kind: ChoiceKind
    task: str = ""
    attack: AttackSpec | None = None
    encoder: str = ""


RANDOM = Choice(kind="random")


class Example(Frozen):
    """One image of a group as the page shows it; arrays lie beside as PNG files."""

    id: str
    place: int
    chosen: tuple[Choice, ...] = (RANDOM,)
    """Groups of older versions hold random images alone."""
    predictions: dict[str, Any]
    """By task: classification a list of [class, probability]; other tasks the name of a PNG file."""
    truth: dict[str, Any]


class Group(Frozen):
    """Example images of one encoder, dataset and attack."""

    group: Name
    encoder: str
    dataset: str
    attack: AttackSpec
    made_for: str
    classes: dict[str, list[str]]
    max_depth: float
    examples: list[Example]
    digests: dict[PictureName, str] = {}
    """SHA-256 of the PNG files by name; groups of older versions have none."""


ROOMS = ("cells", "rows", "examples")
# What a record or group ends with: the SHA-256 of its text without these words. Those of older versions have none.
# Of use to nobody in a name, but a terminal obeys them.
CONTROL = re.compile(
    rb"(?<!\\)(?:\\\\)*\\(?:[bf]|u00(?:0[0-8bcef]|1[0-9a-f]|7f|[89][0-9a-f]))|\xc2[\x80-\x9f]|\x7f", re.IGNORECASE
)
SEAL_LENGTH = 100
SEAL = re.compile(rb',\n "content_sha256": "([0-9a-f]{64})"\n}\Z')


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


def sealed(content: BaseModel) -> bytes:
    """The JSON of a record or group with its own SHA-256 as the last key."""
    text = content.model_dump_json(indent=1).encode()
    return text.removesuffix(b"\n}") + f',\n "content_sha256": "{hashlib.sha256(text).hexdigest()}"\n}}'.encode()


def read_sealed(kind: type[Stored], path: Path) -> Stored:
    """A record or group of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not one, or not as it was written.
    """
    text = path.read_bytes()
    if seal := SEAL.search(text, max(0, len(text) - SEAL_LENGTH)):
        text = text[: seal.start()] + b"\n}"
        if hashlib.sha256(text).hexdigest().encode() != seal[1]:
            raise ValueError("its content is not what its checksum vouches for, so it was changed or damaged")
    if any(mark in text for mark in (b"\\", b"\xc2", b"\x7f")) and CONTROL.search(text):
        raise ValueError("it holds control characters")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise ValueError(f"{place}: {fault['msg']}" if place else fault["msg"]) from error


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
