"""Transfer between encoders: images made on one encoder with its head, judged by the heads of others."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from robustprobe.report.tables.matrix import caption, in_order
from robustprobe.report.tables.sheet import Row, Sheet
from robustprobe.results.labels import attack_labels, head_text

if TYPE_CHECKING:
    from robustprobe.results.records import Record

CLEAN = "no attack"


class EncoderTransferRow(NamedTuple):
    """The encoder that images were made on, and what each judging encoder scored on them."""

    source: str
    cells: list["Record | None"]


class EncoderTransfer(NamedTuple):
    """One attack for one task on the same images: from the encoders of the rows to those in `judges`."""

    title: str
    judges: list[str]
    rows: list[EncoderTransferRow]


def encoder_transfers(records: Iterable["Record"]) -> list[EncoderTransfer]:
    """A matrix for every task, dataset and attack that was made on another encoder than judged it; often none.

    The white-box attack on a judge itself stands in the row of its name, clean scores in the first one.
    """
    known = [r for r in in_order(records, transfer=True) if r.target_task in ("", r.task)]
    moved = [r for r in known if r.source_encoder]
    return [_matrix(record, known) for record in {_attack_key(r): r for r in moved}.values()]


def _images_key(record: "Record") -> tuple[Hashable, ...]:
    return (record.task, record.dataset, record.split, record.image_ids_digest, record.attack_at, head_text(record))


def _attack_key(record: "Record") -> tuple[Hashable, ...]:
    return (*_images_key(record), record.target_task, record.attack)


def _matrix(one: "Record", known: Sequence["Record"]) -> EncoderTransfer:
    """The matrix of the attack and images of a record."""
    same = [r for r in known if _attack_key(r) == _attack_key(one)]
    judges = list(dict.fromkeys(r.encoder for r in same if r.source_encoder))
    clean = {r.encoder: r for r in known if r.is_clean and _images_key(r) == _images_key(one)}
    found = {(r.source_encoder, r.encoder): r for r in same if r.source_encoder}
    white_box = {(r.encoder, r.encoder): r for r in same if not r.source_encoder and r.encoder in judges}
    cells = found | white_box
    sources = list(dict.fromkeys(source for source, _ in cells))
    rows = [EncoderTransferRow(CLEAN, [clean.get(judge) for judge in judges])] if clean else []
    rows += [EncoderTransferRow(name, [cells.get((name, judge)) for judge in judges]) for name in sources]
    label = attack_labels([one.attack_key._replace(source="")], one.task)[0]
    title = f"Transfer between encoders: {one.task} on {one.images_of}, {label}; {caption([one])}"
    return EncoderTransfer(title, judges, rows)


def encoder_transfer_sheet(matrix: EncoderTransfer, text: Callable[["Record | None"], str]) -> Sheet:
    """The matrix as a table, `text` being how a number is shown."""
    rows = [Row([row.source], [text(r) for r in row.cells]) for row in matrix.rows]
    return Sheet(matrix.title, ["made on"], [f"judged by {judge}" for judge in matrix.judges], rows)
