"""Sanity images and examples are no part of a number: a later run adds them beside it, and attacks nothing else."""

from pathlib import Path
from typing import Any

import pytest
import torch

from robustprobe.core.spec import ExecutorOptions, Suite
from robustprobe.core.spec_base import validated
from robustprobe.encoders import Encoder
from robustprobe.evaluation.cells import Plan
from robustprobe.evaluation.executors.work import WorkerState
from robustprobe.evaluation.plan import make_plan
from robustprobe.evaluation.run import execute
from robustprobe.report.page.render import render_page
from robustprobe.report.tables.results import render
from robustprobe.results.records import Record
from robustprobe.results.store import Store
from robustprobe.results.union import union
from tests.runs import contents, quiet

pytestmark = pytest.mark.unit

HEAD = {"train_limit": 24, "epochs": 1, "batch_size": 8, "learning_rates": (3e-3,)}


def planned(encoder: Encoder, out: Path, **options: Any) -> tuple[Plan, Store]:
    data = {"encoders": ["tiny"], "datasets": [{"name": "scenes", "limit": 9, "size": (16, 16)}], "head": HEAD}
    data |= {"attacks": ["clean", "embed", "pgd"], "tasks": ["classification"], "steps": 2, "batch_size": 8}
    data |= {"sanity_images": 2, "examples": 1, "extreme_examples": 0, **options}
    store = Store(out).prepare()
    return make_plan(validated(Suite, data, "test"), store, Path("nowhere"), torch.device("cpu"), [encoder]), store


def run(encoder: Encoder, out: Path, **options: Any) -> Store:
    plan, store = planned(encoder, out, **options)
    assert execute(plan, store, quiet) == []
    return store


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call attacks."""
    found: list[int] = []
    inner = WorkerState.judge

    def judge(self: WorkerState, item: Any, *rest: Any) -> Any:
        found.append(len(item.ids))
        return inner(self, item, *rest)

    monkeypatch.setattr(WorkerState, "judge", judge)
    return found


@pytest.fixture(scope="module")
def four(tiny_encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return contents(run(tiny_encoder, tmp_path_factory.mktemp("four"), sanity_images=4, examples=3))


def test_more_checks_are_added_to_the_same_rows(
    tiny_encoder: Encoder, tmp_path: Path, four: dict[str, Any], judged: list[int]
) -> None:
    rows = {p.name: p.stat().st_mtime_ns for p in (run(tiny_encoder, tmp_path).folder / "rows").iterdir()}
    judged.clear()
    plan, store = planned(tiny_encoder, tmp_path, sanity_images=4)
    assert all(cell.done for cell in plan.cells)
    assert sum(cell.lacks_checks for cell in plan.cells) == 2  # clean images need none
    assert execute(plan, store, quiet) == []
    assert judged == [4, 4]
    assert contents(store) == four
    assert {p.name: p.stat().st_mtime_ns for p in (store.folder / "rows").iterdir()} == rows


@pytest.mark.parametrize("options", [{"sanity_images": 1}, {"sanity_images": 0}, {"examples": 0}])
def test_fewer_checks_and_examples_leave_nothing_to_do(
    tiny_encoder: Encoder, tmp_path: Path, judged: list[int], options: dict[str, int]
) -> None:
    before = contents(run(tiny_encoder, tmp_path))
    judged.clear()
    assert contents(run(tiny_encoder, tmp_path, **options)) == before
    assert judged == []


def test_examples_are_added_where_there_were_fewer_or_none(tiny_encoder: Encoder, tmp_path: Path) -> None:
    assert run(tiny_encoder, tmp_path, examples=0).groups() == []
    added = {g.group: g for g in run(tiny_encoder, tmp_path, examples=3).groups()}
    whole = {g.group: g for g in run(tiny_encoder, tmp_path / "whole", examples=3).groups()}
    assert added == whole
    assert {len(group.examples) for group in whole.values()} == {3}


def test_shards_of_a_run_with_other_checks_are_used(
    tiny_encoder: Encoder, tmp_path: Path, four: dict[str, Any], judged: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = WorkerState.judge

    def interrupted(self: WorkerState, item: Any, *rest: Any) -> Any:
        if sum(judged) >= 8:
            raise KeyboardInterrupt
        return inner(self, item, *rest)

    plan, store = planned(tiny_encoder, tmp_path, attacks=["pgd"])
    monkeypatch.setattr(WorkerState, "judge", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(plan, store, quiet, ExecutorOptions(shard_size=4))
    monkeypatch.setattr(WorkerState, "judge", inner)
    judged.clear()
    found = contents(run(tiny_encoder, tmp_path, attacks=["pgd"], sanity_images=4, examples=3))
    # The ninth image, and those again that the first run had not kept.
    assert sum(judged) <= 1 + 4 + 3
    assert found == {name: cell for name, cell in four.items() if name in found}


def test_of_two_folders_the_record_that_was_checked_more_counts(tiny_encoder: Encoder, tmp_path: Path) -> None:
    stores = [run(tiny_encoder, tmp_path / str(count), sanity_images=count) for count in (2, 4)]
    for order in (stores, stores[::-1]):
        found = {f.record.fingerprint: f.record for f in union([store.folder for store in order])}
        assert {r.checked_images for r in found.values()} == {0, 4}


def test_older_records_get_the_content_of_newer_ones_of_the_same_images(tiny_encoder: Encoder, tmp_path: Path) -> None:
    old, new = (run(tiny_encoder, tmp_path / name, sanity_images=0) for name in ("old", "new"))
    for record in old.records():
        old.write_record(record.model_copy(update={"dataset_content": ""}))
    assert {r.content_digest for r in Store(old.folder).records()} == {r.dataset_digest for r in new.records()}
    (content,) = {r.dataset_content for r in new.records()}
    assert {f.record.content_digest for f in union([old.folder, new.folder])} == {content}
    some = sorted((new.folder / "cells").glob("*.json"))
    some[0].unlink()
    assert {f.record.content_digest for f in union([old.folder, new.folder])} == {content}


def with_threads(record: Record, *counts: int) -> Record:
    return record.model_copy(update={"provenance": record.provenance.model_copy(update={"threads": counts})})


def test_threads_are_recorded_and_told_where_they_differ(tiny_encoder: Encoder, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    plan, store = planned(tiny_encoder, tmp_path, attacks=["clean"], sanity_images=0)
    assert execute(plan, store, quiet, ExecutorOptions(threads=2)) == []
    assert torch.get_num_threads() == before
    (record,) = store.records()
    assert record.provenance.threads == (2,)
    said: list[str] = []
    plan, store = planned(tiny_encoder, tmp_path, attacks=["clean", "noise"], sanity_images=0)
    assert execute(plan, store, quiet, ExecutorOptions(threads=1), said.append) == []
    assert any("measured with 2 threads, this run uses 1" in text for text in said)
    records = store.records()
    for text in (render(records, "rich"), render(records, "md"), render_page(records)):
        assert "with 1 and 2 threads" in " ".join(text.split())
    same = [with_threads(record, 2) for record in records]
    assert "threads: convolutions" not in render(same, "md")
    # A cell that was resumed with another number tells it alone.
    assert "with 1 and 2 threads" in " ".join(render([with_threads(records[0], 1, 2)], "md").split())
