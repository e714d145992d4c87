"""Exported data: one schema for tables of cells and of images; and the name of the protocol."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

from robustprobe.cli.export import rows as export_rows
from robustprobe.core.errors import UserError
from robustprobe.core.spec import Statistic
from robustprobe.core.types import LabelSpace
from robustprobe.metrics.statistics import image_scores
from robustprobe.report.tables.results import KEYS, render, table_rows
from robustprobe.report.tables.tidy import CELL_KEYS, ROW_KEYS, tidy_rows
from robustprobe.results.protocol import protocol_name
from robustprobe.results.records import CheckFact, Interval
from robustprobe.tasks import load_task
from tests.unit.test_compare import SMALL, cifar, classified, dense_cell, fill

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("task", ["classification", "segmentation", "depth", "normals"])
def test_the_score_of_an_image_is_the_tasks_own(task: str) -> None:
    space = LabelSpace(classes=tuple("abc"))
    kind = load_task(task, space)
    generator = torch.Generator().manual_seed(0)
    targets = kind.example_targets(5, (8, 8), generator)
    shape = (5, 3) if task == "classification" else (5, 3, 8, 8) if task in ("segmentation", "normals") else (5, 8, 8)
    rows = kind.rows(torch.rand(shape, generator=generator), targets)
    columns = {name: np.asarray(values).tolist() for name, values in rows.items()}
    found = image_scores(kind.statistics[kind.metric], columns)
    assert found is not None
    np.testing.assert_allclose(found, kind.score(rows).numpy(), rtol=1e-5)


def test_a_score_is_missing_where_its_columns_are() -> None:
    assert image_scores(None, {"correct": [1]}) is None
    assert image_scores(Statistic(kind="mean", columns=("rmse",)), {"correct": [1]}) is None
    ratio = image_scores(Statistic(kind="ratio", columns=("a", "b")), {"a": [1, 2, 3], "b": [2, 4, 0]})
    np.testing.assert_allclose(np.asarray(ratio), [0.5, 0.5, np.nan])


def test_rows_say_what_was_measured_on_which_image(tmp_path: Path) -> None:
    check = CheckFact(name="zero gradient", value=1, passed=False, meaning="hidden")
    counts = {"intersection": [[4, 0], [2, 1]], "predicted": [[4, 4], [3, 5]], "labelled": [[8, 0], [2, 6]]}
    store = fill(
        tmp_path,
        classified(np.array([1, 0]), checks=(check,)),
        dense_cell("segmentation", "embed", counts, 0.3),
        classified(np.array([1, 1]), name="embed", target_task="depth"),
    )
    table = tidy_rows(store)
    assert tuple(table.column_names) == ROW_KEYS
    rows = table.to_pylist()
    assert len(rows) == 4
    pixels = [row for row in rows if row["task"] == "segmentation"]
    assert [row["iou"] for row in pixels] == [row["score"] for row in pixels]
    assert pixels[1]["iou"] == pytest.approx((2 / 3 + 1 / 10) / 2)
    (first, second) = [row for row in rows if row["task"] == "classification"]
    assert (first["id"], first["score"], first["iou"], first["encoder"]) == ("i0", 1.0, None, SMALL)
    assert (second["score"], second["failed_checks"], second["attack"]) == (0.0, "zero gradient", "pgd")
    assert second["eps"] == pytest.approx(8 / 255)
    assert len(second["encoder_digest"]) == 64
    assert tidy_rows(store, transfer=True).num_rows == 6
    assert tidy_rows(store, []).num_rows == 0


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_rows_are_written_as_a_file(tmp_path: Path, ending: str) -> None:
    folder = fill(tmp_path / "r", classified(np.array([1, 0, 1]))).folder
    file = tmp_path / f"rows.{ending}"
    export_rows(folder, out=file)
    found = pyarrow.parquet.read_table(file) if ending == "parquet" else pyarrow.csv.read_csv(file)
    assert tuple(found.column_names) == ROW_KEYS
    assert found.column("score").to_pylist() == [1, 0, 1]
    with pytest.raises(UserError, match="give a file that ends in"):
        export_rows(folder, out=tmp_path / "rows.xlsx")


def test_tables_share_the_columns_and_hold_no_prose() -> None:
    assert set(CELL_KEYS) <= set(KEYS)
    more = {"top-1": Interval(value=0.5, ci_low=0.4, ci_high=0.6), "knn": Interval(value=0.3, ci_low=0.2, ci_high=0.4)}
    failed = tuple(CheckFact(name=name, value=1, passed=False, meaning="a sentence") for name in ("one", "two words"))
    record = cifar("pgd", 0.5, metrics=more, checks=failed)
    (row,) = table_rows([record])
    assert (row["encoder_digest"], row["failed_checks"]) == (record.encoder_digest, "one; two words")
    assert row["other_metrics"] == {"knn": {"value": 0.3, "ci_low": 0.2, "ci_high": 0.4}}
    assert json.loads(render([record], "json"))[0] == row
    (cells,) = csv.DictReader(io.StringIO(render([record], "csv")))
    assert json.loads(cells["other_metrics"]) == row["other_metrics"]


def test_one_protocol_has_one_name_for_every_encoder() -> None:
    ours, theirs = ([cifar(name, 0.5, encoder=e) for name in ("clean", "pgd")] for e in ("a:a", "b:b"))
    name = protocol_name(ours)
    assert name.startswith("robustprobe-v1/standard/cifar10-200/linf-8_255/")
    assert protocol_name([*theirs, *ours[::-1]]) == name == protocol_name(theirs)
    assert protocol_name([]) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"steps": 100}},
        {"settings": {"eps": 4 / 255}},
        {"settings": {"restarts": 2}},
        {"settings": {"norm": "l2"}},
        {"n": 100},
        {"split": "val"},
        {"image_ids_digest": "others"},
        {"dataset_digest": "e" * 64},
        {"precision": "bf16"},
        {"target_task": "depth"},
    ],
)
def test_whatever_changes_the_measurement_changes_the_name(change: dict[str, Any]) -> None:
    assert protocol_name([cifar("pgd", 0.5, **change)]) != protocol_name([cifar("pgd", 0.5)])


def test_every_caption_names_the_protocol() -> None:
    records = [cifar("pgd", 0.5), cifar("clean", 0.9)]
    for format in ("rich", "md"):
        assert f"protocol {protocol_name(records)}" in " ".join(render(records, format).split())
    assert f"protocol {protocol_name(records)}" in render(records, "md", layout="paper")
