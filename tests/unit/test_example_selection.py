"""Extreme examples: which images they are, and that what is stored of them is what was counted."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustprobe.core.spec import Suite
from robustprobe.core.spec_base import validated
from robustprobe.encoders import Encoder
from robustprobe.evaluation import example_selection
from robustprobe.evaluation.cells import Plan
from robustprobe.evaluation.example_selection import KeptScores, chosen
from robustprobe.evaluation.executors import WorkerState
from robustprobe.evaluation.plan import make_plan
from robustprobe.evaluation.run import execute
from robustprobe.results.example_images import RANDOM, Example, ExampleChoice, Group
from robustprobe.results.store import Store
from tests.runs import contents, quiet

pytestmark = pytest.mark.unit

HEAD = {"train_limit": 24, "epochs": 1, "batch_size": 8, "learning_rates": (3e-3,), "knn": 3}
TASKS = ("classification", "segmentation", "depth")


def shares(
    kept: list[list[float]], clean: list[float] | None = None, other: list[list[float]] | None = None
) -> KeptScores:
    found = np.array(kept)
    return KeptScores(
        np.array(clean) if clean else np.ones(found.shape[1]), found, np.array(other) if other else np.zeros_like(found)
    )


def names(count: int) -> list[str]:
    return [f"image {k}" for k in range(count)]


def test_images_are_chosen_at_the_minimal_eps_that_breaks_half() -> None:
    found = shares([[0.9, 0.8, 0.4, 0.9], [0.5, 0.1, 0.3, 0.7], [0.0, 0.0, 0.0, 0.0]])
    level, positions = chosen(found, names(4), 1, 0)
    assert level == 1
    assert positions == {"most damaged": [1], "barely broken": [0], "survived": [3]}


def test_where_no_eps_breaks_half_the_largest_counts_and_nothing_is_called_broken() -> None:
    level, positions = chosen(shares([[1.0, 0.9, 0.8], [0.9, 0.8, 0.7]]), names(3), 1, 0)
    assert level == 1
    assert positions == {"most damaged": [2], "barely broken": [], "survived": [0]}


def test_images_that_were_bad_to_begin_with_or_have_no_score_do_not_count() -> None:
    clean = [0.9, 0.1, 0.8, float("nan"), 0.7, 0.85]
    found = shares([[0.5, 0.0, 0.2, float("nan"), 1.0, 0.9]], clean)
    assert chosen(found, names(6), 1, 0)[1] == {"most damaged": [2], "barely broken": [0], "survived": [5]}
    assert chosen(shares([[float("nan")]], [0.0]), names(1), 1, 0) == (0, {})


def test_ties_are_decided_by_all_eps_then_by_other_opinions_then_by_the_seed() -> None:
    right = [[0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]]
    second = [[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]
    assert chosen(shares(right, other=second), names(4), 1, 0) == (
        1,
        {"most damaged": [0], "barely broken": [1], "survived": [3]},
    )
    equal = shares([[0.0] * 40])
    first, again, other = (chosen(equal, names(40), 3, seed)[1]["most damaged"] for seed in (0, 0, 1))
    assert first == again != other


def test_no_image_is_chosen_twice_for_a_task() -> None:
    _, positions = chosen(shares([[0.1, 0.2, 0.3]]), names(3), 2, 0)
    assert positions == {"most damaged": [0, 1], "barely broken": [2], "survived": []}


def planned(encoder: Encoder, store: Store, **options: Any) -> tuple[Plan, Store]:
    data = {"encoders": ["tiny"], "datasets": [{"name": "scenes", "limit": 12, "size": (16, 16)}], "head": HEAD}
    data |= {"attacks": ["clean", "embed", "pgd", "segpgd", "depthpgd"], "eps": ["2/255", "8/255"]}
    data |= {"steps": 2, "sanity_images": 0, "examples": 2, "batch_size": 8, "tasks": TASKS, **options}
    plan = make_plan(validated(Suite, data, "test"), store, Path("nowhere"), torch.device("cpu"), [encoder])
    return plan, store


def choices(group: Group) -> dict[int, tuple[ExampleChoice, ...]]:
    return {example.position: example.chosen for example in group.examples}


def files(store: Store) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(store.folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in (store.folder / "examples").rglob("*.*")
    }


@pytest.fixture(scope="module")
def without(tiny_encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """An older run: random images only."""
    store = Store(tmp_path_factory.mktemp("without")).prepare()
    assert execute(*planned(tiny_encoder, store, extreme_examples=0), quiet) == []
    assert all({c for e in group.examples for c in e.chosen} == {RANDOM} for group in store.groups())
    return store


@pytest.fixture
def older(without: Store, tmp_path: Path) -> Store:
    store = Store(tmp_path / "older").prepare()
    store.copy_cells([(without, record.fingerprint) for record in without.records()])
    for group in without.groups():
        store.copy_group(without, group.group)
    return store


def test_an_older_run_is_completed_with_the_images_whose_rows_are_stored(
    tiny_encoder: Encoder, older: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    again: list[Any] = []
    inner = WorkerState.judge

    def judge(self: WorkerState, item: Any, *rest: Any) -> Any:
        shard = inner(self, item, *rest)
        again.append((item.task, shard))
        return shard

    before, rows = contents(older), {}
    monkeypatch.setattr(WorkerState, "judge", judge)
    plan, _ = planned(tiny_encoder, older)
    assert execute(plan, older, quiet) == []
    assert contents(older) == before
    assert len(again) == len(plan.pairs[0].jobs)
    for task, shard in again:
        for level, pieces in zip(plan.pairs[0].jobs[task.number].levels, zip(*shard.batches, strict=True), strict=True):
            for cell in level.cells:
                rows = older.rows(cell.fingerprint).to_pydict()
                for piece in pieces:
                    for name, column in piece.rows[cell.task].items():
                        stored = [rows[name][rows["id"].index(identity)] for identity in piece.ids]
                        assert column.tolist() == stored, (level.attack.label, cell.task, name)
    assert files(older)
    monkeypatch.setattr(WorkerState, "judge", lambda *_: pytest.fail("an image was attacked once more"))
    written = files(older)
    assert execute(*planned(tiny_encoder, older), quiet) == []
    assert files(older) == written


def test_every_group_has_the_same_images_and_says_why(tiny_encoder: Encoder, older: Store) -> None:
    assert execute(*planned(tiny_encoder, older), quiet) == []
    groups = older.groups()
    first = choices(groups[0])
    assert all(choices(group) == first for group in groups)
    kinds = {(c.kind, c.task) for some in first.values() for c in some}
    assert {("random", ""), *(("most damaged", task) for task in TASKS)} <= kinds
    assert list(first.values())[:2] == [first[position] for position in sorted(first) if RANDOM in first[position]]
    for choice in (c for some in first.values() for c in some if c != RANDOM):
        assert choice.attack
        assert (
            choice.attack.label == {"classification": "pgd", "segmentation": "segpgd", "depth": "depthpgd"}[choice.task]
        )
        assert choice.encoder == tiny_encoder.card.name
    for group in groups:
        pictures = {p.name for p in (older.folder / "examples" / group.group).glob("*.png")}
        assert pictures == set(group.digests)
    assert not [record for record in older.records() if older.damaged(record)]


def test_the_most_damaged_image_kept_least_of_its_clean_score(
    tiny_encoder: Encoder, older: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustprobe.evaluation.row_scores.ROWS", 5)
    assert execute(*planned(tiny_encoder, older), quiet) == []
    found = {c: e.position for e in older.groups()[0].examples for c in e.chosen if c.task == "depth"}
    (worst,) = [(c, position) for c, position in found.items() if c.kind == "most damaged"]
    records = [r for r in older.records() if r.task == "depth"]
    clean, attacked = (
        np.array(older.rows(next(r.fingerprint for r in records if r.attack == spec)).to_pydict()["rmse"])
        for spec in (next(r.attack for r in records if r.attack.name == "clean"), worst[0].attack)
    )
    counted = np.flatnonzero(clean <= np.median(clean))
    assert worst[1] == counted[np.argmax((attacked / clean)[counted])]


def test_an_encoder_evaluated_later_shows_the_same_images(tiny_encoder: Encoder, older: Store) -> None:
    assert execute(*planned(tiny_encoder, older), quiet) == []
    before = choices(older.groups()[0])
    other = copy.deepcopy(tiny_encoder)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    other.card = other.card.model_copy(update={"name": "file:other"})
    assert execute(*planned(other, older), quiet) == []
    assert len({group.group for group in older.groups()}) == 2 * 9
    assert all(choices(group) == before for group in older.groups())


def test_more_images_of_each_kind_are_added_to_those_that_are_there(tiny_encoder: Encoder, older: Store) -> None:
    assert execute(*planned(tiny_encoder, older), quiet) == []
    one = choices(older.groups()[0])
    assert execute(*planned(tiny_encoder, older, extreme_examples=2), quiet) == []
    two = choices(older.groups()[0])
    assert one.items() <= {position: some[: len(one.get(position, some))] for position, some in two.items()}.items()
    assert sum(c.kind == "most damaged" for some in two.values() for c in some) == 2 * len(TASKS)


def test_a_failure_is_named_and_leaves_cells_and_random_images_as_they_were(
    tiny_encoder: Encoder, older: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, pictures = contents(older), files(older)

    def broken(*rest: Any) -> Any:
        raise RuntimeError("no such image")

    with monkeypatch.context() as patch:
        patch.setattr(WorkerState, "judge", broken)
        failures = execute(*planned(tiny_encoder, older), quiet)
    assert {failure.reason for failure in failures} == {"no such image"}
    assert all(" on scenes: examples of " in failure.label and not failure.mistake for failure in failures)
    assert contents(older) == before
    assert files(older) == pictures
    assert execute(*planned(tiny_encoder, older), quiet) == []
    assert len(older.groups()[0].examples) > 2


def test_a_stage_that_is_killed_leaves_whole_groups_and_is_taken_up_again(
    tiny_encoder: Encoder, older: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    inner = Store.write_image

    def write(self: Store, group: str, name: str, pixels: Any) -> str:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(name)
        return inner(self, group, name, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_image", write)
        with pytest.raises(KeyboardInterrupt):
            execute(*planned(tiny_encoder, older), quiet)
    assert not [record for record in older.records() if older.damaged(record)]
    assert {len(group.examples) for group in older.groups()} == {2}
    assert execute(*planned(tiny_encoder, older), quiet) == []
    (first, *others) = [choices(group) for group in older.groups()]
    assert all(other == first for other in others)


@pytest.mark.parametrize("options", [{"examples": 0}, {"attacks": ["embed", "segpgd"]}])
def test_without_examples_or_clean_images_nothing_is_chosen(
    tiny_encoder: Encoder, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example_selection, "add_examples", lambda *_: pytest.fail("an image was chosen"))
    monkeypatch.setattr(example_selection, "chosen", lambda *_: pytest.fail("images were looked at"))
    store = Store(tmp_path).prepare()
    plan, _ = planned(tiny_encoder, store, **{"attacks": ["clean", "segpgd"], "eps": ["8/255"], **options})
    assert execute(plan, store, quiet) == []


def test_examples_of_older_versions_are_random_ones() -> None:
    old = Example.model_validate({"id": "a", "place": 3, "predictions": {}, "truth": {}})
    assert old.chosen == (RANDOM,)
