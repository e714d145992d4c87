"""Adversarial images made on one encoder, judged by the heads of another one."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import robustprobe as rp
from robustprobe.core.types import Features
from robustprobe.encoders import Encoder
from robustprobe.report.page.checks import checks
from robustprobe.report.page.render import render_page
from robustprobe.report.tables.board import board
from robustprobe.report.tables.encoder_transfer import encoder_transfers
from robustprobe.report.tables.results import render, table_rows
from robustprobe.results.records import Record
from robustprobe.results.store import Store

pytestmark = pytest.mark.unit

HEAD = {"train_limit": 48, "epochs": 2, "batch_size": 8, "learning_rates": (3e-3,)}
OPTIONS: dict[str, Any] = {"head": HEAD, "limit": 8, "size": (16, 16), "steps": 3, "sanity_images": 2, "tasks": "depth"}


class Blind(Encoder):
    """Sees nothing: every image has the same features."""

    def __init__(self, like: Encoder) -> None:
        super().__init__(like.card.model_copy(update={"name": "blind"}))
        self.like = like

    def features(self, images: Tensor) -> Features:
        return Features(*(part * 0 for part in self.like(images)))


def other(encoder: Encoder) -> Encoder:
    """An encoder of other weights."""
    found = copy.deepcopy(encoder)
    found.card = found.card.model_copy(update={"name": "other"})
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    vars(found).pop("digest", None)
    return found


def measured(out: Path, encoders: Any, **options: Any) -> list[Record]:
    rp.evaluate(encoders, "scenes", ["clean", "noise", "depthpgd", "embed"], out=out, **(OPTIONS | options))
    return Store(out).records()


@pytest.fixture(scope="module")
def found(tiny_encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    pair = [tiny_encoder, other(tiny_encoder)]
    return measured(tmp_path_factory.mktemp("transfer"), pair, transfer_from=pair)


def test_images_made_on_the_judge_itself_give_the_white_box_rows(found: list[Record]) -> None:
    white = {(r.encoder, r.attack.name): r for r in found if not r.source_encoder}
    same = [r for r in found if r.source_encoder == r.encoder]
    assert {(r.encoder, r.attack.name) for r in same} == {
        (encoder, attack) for encoder in ("file:tiny", "other") for attack in ("depthpgd", "embed")
    }
    for record in same:
        own = white[record.encoder, record.attack.name]
        assert record.fingerprint != own.fingerprint
        assert record.metrics == own.metrics
        assert record.rows_sha256 == own.rows_sha256
        assert record.source_digest == record.encoder_digest


def test_records_say_who_made_what_and_transfers_rank_nobody(found: list[Record]) -> None:
    moved = [r for r in found if r.source_encoder and r.source_encoder != r.encoder]
    assert {(r.source_encoder, r.encoder, r.attack.name) for r in moved} == {
        (a, b, attack) for a, b in (("file:tiny", "other"), ("other", "file:tiny")) for attack in ("depthpgd", "embed")
    }
    digests = {r.encoder: r.encoder_digest for r in found}
    for record in moved:
        assert record.source_digest == digests[record.source_encoder]
        assert record.is_transfer
        assert not record.is_task_specific
        assert {check.name for check in record.checks} <= {"ball", "zero gradient", "still rising"}
    without = [r for r in found if not r.source_encoder]
    assert [row.robust for row in board(found).rows] == [row.robust for row in board(without).rows]
    assert len(table_rows(found)) == len(without)
    rows = table_rows(found, transfer=True)
    assert {row["source_encoder"] for row in rows} == {"", "file:tiny", "other"}


def test_tables_and_page_show_a_matrix(found: list[Record]) -> None:
    matrices = encoder_transfers(found)
    assert len(matrices) == 2  # depthpgd and embed
    for matrix in matrices:
        assert matrix.judges == ["file:tiny", "other"]
        assert matrix.rows[0].source == "no attack"
        cells = {row.source: row.cells for row in matrix.rows}
        for position, judge in enumerate(matrix.judges):
            diagonal = cells[judge][position]
            assert diagonal
            assert not diagonal.source_encoder
    for text in (render(found, "rich"), render(found, "md"), render(found, "latex"), render_page(found)):
        assert "Transfer between encoders" in text
    assert "Transfer between encoders" not in render([r for r in found if not r.source_encoder], "md")


def test_a_judge_that_sees_nothing_is_not_harmed(tiny_encoder: Encoder, tmp_path: Path) -> None:
    records = measured(tmp_path, [Blind(tiny_encoder)], transfer_from=tiny_encoder)
    clean = next(r for r in records if r.is_clean)
    moved = [r for r in records if r.source_encoder]
    assert {r.attack.name for r in moved} == {"depthpgd", "embed"}
    assert all(r.metrics == clean.metrics for r in moved)
    # The images were changed all the same.
    assert all(r.largest_perturbation > 0 for r in moved)


def test_an_attack_made_elsewhere_is_measured_once(tiny_encoder: Encoder, tmp_path: Path) -> None:
    pair = other(tiny_encoder)
    before = {r.fingerprint: r.provenance for r in measured(tmp_path, tiny_encoder, transfer_from=pair)}
    again = {r.fingerprint: r.provenance for r in measured(tmp_path, tiny_encoder, transfer_from=pair)}
    assert before == again


def test_a_transfer_that_does_more_than_the_white_box_attack_fails_a_check_of_the_page(found: list[Record]) -> None:
    statement = "No task-specific attack is weaker than an attack that did not see the task's model"
    moved = next(r for r in found if r.source_encoder and r.source_encoder != r.encoder and r.target_task == r.task)
    worse = moved.headline.model_copy(update={"value": 99.0, "ci_low": 98.0, "ci_high": 100.0})
    stronger = moved.model_copy(update={"metrics": {**moved.metrics, moved.metric: worse}})
    for record, failing in ((moved, False), (stronger, True)):
        kept = [r for r in found if not r.source_encoder]
        (check,) = [c for c in checks([*kept, record]) if c.statement == statement]
        assert bool(check.failures) == failing
