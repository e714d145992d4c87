"""The tables of Kowalczuk et al. (2024) as data; which of our records are of the same cells, and which one counts."""

import math
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.sizes import Eps, Norm
from robustprobe.core.spec_base import Spec
from robustprobe.report.tables.matrix import Column, Line, TaskTable, caption, line_key
from robustprobe.results.labels import head_text
from robustprobe.results.protocol import protocol_name
from robustprobe.results.records import AttackAccess, AttackKey

if TYPE_CHECKING:
    from robustprobe.results.records import Record

FILE = Path(__file__).parents[2] / "assets" / "paper" / "kowalczuk2024.json"
TITLES = {"clean": "clean", "embed": "EmbedAttack", "pgd": "PGD", "segpgd": "SegPGD", "depthpgd": "DepthPGD"}
RULE = "20 steps come first, then the head recipe `paper`, then most images, then best iterates, then the newest record"
MIXED = "The cells of this row do not share encoder weights, head, images and precision, so do not subtract them."

Weights = Literal["standard", "deacl"]


class PaperThreat(Spec):
    """The threat model of every attacked cell of the paper."""

    norm: Norm
    eps: Eps
    steps: int
    step_size: Eps
    origin: str


class PaperRow(Spec):
    """A row of a table: one encoder on one dataset, a value per column."""

    dataset: str
    encoder: str
    weights: Weights
    values: tuple[float, ...]


class PaperTable(Spec):
    """One of the paper's tables."""

    task: str
    metric: str
    unit: str
    higher_is_better: bool
    columns: tuple[str, ...]
    rows: tuple[PaperRow, ...]


class PaperCell(NamedTuple):
    """One number of the paper."""

    task: str
    dataset: str
    encoder: str
    weights: Weights
    attack: str
    value: float


class Difference(Spec):
    """How the paper's protocol differs from ours, and for which cells; empty: for all."""

    text: str
    tasks: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    weights: tuple[Weights, ...] = ()

    def concerns(self, cell: PaperCell) -> bool:
        """Whether this holds for the cell."""
        limits = ((self.tasks, cell.task), (self.columns, cell.attack), (self.datasets, cell.dataset))
        return all(not some or own in some for some, own in (*limits, (self.weights, cell.weights)))


class Facts(Spec):
    """The paper's tables, threat model and differences from ours."""

    source: str
    threat: PaperThreat
    rounding: float
    """Half of the last decimal the paper prints."""
    encoders: dict[str, tuple[str, ...]]
    """The paper's names of encoders, and patterns of specs that mean the same weights."""
    tables: tuple[PaperTable, ...]
    differences: tuple[Difference, ...]

    def cells(self) -> list[PaperCell]:
        """Every number, in the order of the tables."""
        return [
            PaperCell(table.task, row.dataset, row.encoder, row.weights, attack, value)
            for table in self.tables
            for row in table.rows
            for attack, value in zip(table.columns, row.values, strict=True)
        ]


@lru_cache(maxsize=1)
def paper() -> Facts:
    """The paper's tables."""
    return Facts.model_validate_json(FILE.read_text(encoding="utf-8"))


def is_encoder(record: "Record", cell: PaperCell, deacl: str | None) -> bool:
    """Whether a record's encoder is the one of the cell.

    Args:
        record: its encoder, or what it was loaded from, is named as in `timm:vit_small_patch14_dinov2.lvd142m`.
        cell: its encoder is one of `Facts.encoders`.
        deacl: the name of the DeACL checkpoint; None: any whose card says DeACL, from the encoder of the cell.
    """
    if cell.weights == "standard":
        return matches(record.encoder_spec or record.encoder, paper().encoders[cell.encoder])
    if deacl is not None:
        return record.encoder == deacl
    return record.encoder_method == cell.weights and matches(record.encoder_teacher, paper().encoders[cell.encoder])


def matches(spec: str, patterns: Iterable[str]) -> bool:
    """Whether what an encoder was loaded from fits a pattern, such as `hub:facebookresearch/dino*:dino_vits16`."""
    return any(fnmatchcase(spec, pattern) for pattern in patterns)


def is_attack(record: "Record", task: str, attack: str) -> bool:
    """Whether a record is of the paper's attack: its threat, its default objective, made for the head that judges."""
    own, threat = record.attack, paper().threat
    if record.source_encoder or record.task != task or own.name != attack or own.objective or record.split != "test":
        return False
    if attack == "clean":
        return True
    target_task = "" if attack == "embed" else task
    return record.target_task == target_task and own.norm == threat.norm and math.isclose(own.eps, threat.eps)


class PaperChoice(NamedTuple):
    """The record that counts for a cell, and how many others fit it; None: nothing was measured."""

    record: "Record | None"
    others: int


def choose(records: Sequence["Record"]) -> PaperChoice:
    """Of the records that fit a cell the one that counts, by `RULE`."""
    if not records:
        return PaperChoice(None, 0)
    return PaperChoice(max(records, key=_preference), len(records) - 1)


def _preference(record: "Record") -> tuple[bool, bool, int, bool, str, str]:
    attack, recipe = record.attack, record.head.recipe.get("recipe")
    same_steps = attack.steps == paper().threat.steps
    best = attack.iterate == "best"
    return (
        same_steps,
        recipe == "paper" and not head_text(record),
        record.n,
        best,
        record.provenance.started,
        record.fingerprint,
    )


def choice_note(others: int) -> str:
    """The note on a cell that several records fit."""
    return f"One of {others + 1} records of this cell: {RULE}."


def mixed(records: Iterable["Record"]) -> bool:
    """Whether the records of a row are not of the same weights, head, images and precision."""
    return len({line_key(r) for r in records}) > 1


class PaperLayout(NamedTuple):
    """Results in the shape of the paper's tables, and notes on the choice of records."""

    tables: list[TaskTable]
    records: list["Record"]
    notes: list[str]


def paper_layout(records: Iterable["Record"]) -> PaperLayout:
    """Results at the paper's threat: a row per dataset and encoder; columns clean, embed, task-specific attack."""
    records = list(records)
    tables, kept, notes = [], [], []
    for table in paper().tables:
        found = {attack: [r for r in records if is_attack(r, table.task, attack)] for attack in table.columns}
        lines = []
        for dataset, encoder in _row_names(table, [r for some in found.values() for r in some]):
            choices = [
                choose([r for r in found[attack] if (r.dataset, r.encoder) == (dataset, encoder)])
                for attack in table.columns
            ]
            lines.append(Line(dataset, encoder, [choice.record for choice in choices]))
            notes += _layout_notes(f"{encoder}, {dataset}", table, choices)
        shown = [r for line in lines for r in line.cells if r]
        kept += shown
        if shown:
            title = f"{caption(shown)}; protocol {protocol_name(shown)}"
            tables.append(TaskTable(table.task, title, _columns(table), lines))
    return PaperLayout(tables, kept, notes)


def _row_names(table: PaperTable, records: Iterable["Record"]) -> list[tuple[str, str]]:
    """Datasets in the paper's order, others after them."""
    order = list(dict.fromkeys(row.dataset for row in table.rows))
    position = {dataset: number for number, dataset in enumerate(order)}
    return sorted({(r.dataset, r.encoder) for r in records}, key=lambda n: (position.get(n[0], len(position)), *n))


def _columns(table: PaperTable) -> list[Column]:
    threat = paper().threat
    access: dict[str, AttackAccess] = {"clean": "nothing", "embed": "encoder"}
    return [
        Column(
            AttackKey(
                AttackSpec(
                    name=attack, eps=0.0 if attack == "clean" else threat.eps, norm=threat.norm, steps=threat.steps
                ),
                "" if attack in access else table.task,
                access.get(attack, "task"),
            ),
            TITLES[attack],
        )
        for attack in table.columns
    ]


def _layout_notes(where: str, table: PaperTable, choices: Sequence[PaperChoice]) -> list[str]:
    pairs = zip(table.columns, choices, strict=True)
    notes = [f"{where}, {TITLES[attack]}: {choice_note(c.others)}" for attack, c in pairs if c.others]
    if mixed(c.record for c in choices if c.record):
        notes.append(f"{where}, {table.task}: {MIXED}")
    return notes
