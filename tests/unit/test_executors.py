"""Units of work: what memory, interruptions and missing files do to them, and that rows do not mind."""

import heapq
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from robustprobe.core.spec import ExecutorOptions, Suite
from robustprobe.core.spec_base import validated
from robustprobe.encoders import Encoder
from robustprobe.evaluation import evaluate as evaluating
from robustprobe.evaluation import partial_results, run
from robustprobe.evaluation.cells import PairKey, Plan
from robustprobe.evaluation.executors import Executor, FitHeads, Outcome, WorkItem, ray
from robustprobe.evaluation.executors import work as worker
from robustprobe.evaluation.plan import make_plan
from robustprobe.evaluation.run import RunProgress, execute
from robustprobe.results.store import Store
from tests.runs import contents, quiet

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")
HEAD = {"train_limit": 24, "epochs": 1, "batch_size": 8, "learning_rates": (3e-3,)}


def planned(encoder: Encoder, out: Path, root: Path = Path("nowhere"), **options: Any) -> tuple[Plan, Store]:
    data = {"encoders": ["tiny"], "datasets": [{"name": "scenes", "limit": 11, "size": (16, 16)}], "head": HEAD}
    data |= {"attacks": ["embed", "segpgd"], "steps": 2, "sanity_images": 2, "examples": 2, "batch_size": 8, **options}
    store = Store(out).prepare()
    return make_plan(validated(Suite, data, "test"), store, root, CPU, [encoder]), store


@pytest.fixture(scope="module")
def undisturbed(tiny_encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    plan, store = planned(tiny_encoder, tmp_path_factory.mktemp("undisturbed"))
    assert execute(plan, store, quiet) == []
    found = contents(store)
    assert len(found) == len(plan.cells)
    return found


def test_records_say_the_most_memory_of_any_shard(
    tiny_encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = iter([300, None, 500, 400, None, None])

    class Peak:
        def __init__(self, device: torch.device) -> None:
            self.bytes = next(peaks)

    monkeypatch.setattr(worker, "PeakMemory", Peak)
    plan, store = planned(tiny_encoder, tmp_path, sanity_images=0, examples=0)
    assert execute(plan, store, quiet, ExecutorOptions(shard_size=4)) == []
    assert {(r.attack.name, r.provenance.peak_memory) for r in store.records()} == {("embed", 500), ("segpgd", 400)}


@pytest.mark.parametrize("size", [1, 4])
def test_rows_do_not_depend_on_the_size_of_shards(
    tiny_encoder: Encoder, tmp_path: Path, undisturbed: dict[str, Any], size: int
) -> None:
    plan, store = planned(tiny_encoder, tmp_path, batch_size=3)
    assert execute(plan, store, quiet, ExecutorOptions(shard_size=size)) == []
    assert contents(store) == undisturbed
    assert not (tmp_path / "shards").exists()


def test_an_interrupted_cell_goes_on_where_it_stopped(
    tiny_encoder: Encoder, tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[str] = []
    interrupted: list[bool] = []
    inner = worker.WorkerState.judge

    def judge(self: Any, item: Any, *rest: Any) -> Any:
        if len(judged) == 8 and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        judged.extend(item.ids)
        return inner(self, item, *rest)

    monkeypatch.setattr(worker.WorkerState, "judge", judge)
    plan, store = planned(tiny_encoder, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        execute(plan, store, quiet, ExecutorOptions(shard_size=4))
    assert contents(store) == {}
    assert execute(*planned(tiny_encoder, tmp_path), quiet, ExecutorOptions(shard_size=5)) == []
    # Each image of the two jobs once: nothing that was finished is done again.
    assert len(judged) == 8 + 3 + 11
    assert contents(store) == undisturbed


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."),
        MemoryError(),
    ],
)
def test_where_memory_does_not_suffice_batches_are_halved_and_numbers_stay(
    tiny_encoder: Encoder,
    tmp_path: Path,
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    inner = evaluating.evaluate

    def evaluate(work: Any, *rest: Any) -> Iterator[Any]:
        for number, judged in enumerate(inner(work, *rest)):
            if work.batch_size > 2 and number:
                raise error
            yield judged

    monkeypatch.setattr(worker, "evaluate", evaluate)
    plan, store = planned(tiny_encoder, tmp_path)
    said: list[str] = []
    assert execute(plan, store, quiet, say=said.append) == []
    assert contents(store) == undisturbed
    assert "out of memory with 8 images at once; it goes on with 4" in said[0]


def test_memory_that_holds_no_image_fails_the_job_alone(
    tiny_encoder: Encoder, tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = evaluating.evaluate

    def evaluate(work: Any, *rest: Any) -> Iterator[Any]:
        if work.target_task:
            raise MemoryError
        yield from inner(work, *rest)

    monkeypatch.setattr(worker, "evaluate", evaluate)
    plan, store = planned(tiny_encoder, tmp_path)
    (failure,) = execute(plan, store, quiet)
    assert "segpgd" in failure.label
    assert "with one image at once" in failure.reason
    assert not failure.mistake
    assert contents(store) == {k: v for k, v in undisturbed.items() if v[0]["attack"]["name"] == "embed"}


def test_a_file_that_disappears_is_named_and_what_was_finished_stays(tiny_encoder: Encoder, tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    for split, count in (("train", 4), ("test", 6)):
        for position in range(count):
            values = np.random.default_rng(position).integers(0, 255, (16, 16, 3), dtype=np.uint8)
            folder = root / split / "ab"[position % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(folder / f"{position}.png")
    options: dict[str, Any] = {
        "datasets": [{"name": f"imagefolder:{root}", "size": (16, 16)}],
        "attacks": ["pgd"],
        "sanity_images": 0,
    }
    whole, wanted = planned(tiny_encoder, tmp_path / "whole", **options)
    assert execute(whole, wanted, quiet) == []
    plan, store = planned(tiny_encoder, tmp_path / "out", **options)
    lost = root / "test" / "b" / "5.png"
    content = lost.read_bytes()

    def vanish(progress: RunProgress) -> None:
        if list((tmp_path / "out" / "shards").rglob("*.pt")):
            lost.unlink(missing_ok=True)

    (failure,) = execute(plan, store, vanish, ExecutorOptions(shard_size=2))
    assert failure.mistake
    assert "5.png" in failure.reason
    kept = list((tmp_path / "out" / "shards").rglob("*.pt"))
    assert len(kept) == 1
    lost.write_bytes(content)
    assert execute(*planned(tiny_encoder, tmp_path / "out", **options), quiet) == []
    assert contents(store) == contents(wanted)


class Remote(Executor):
    """Every work item and what comes of it pass through pickle, as between the processes of Ray."""

    def open(self) -> None:
        self.heads: dict[PairKey, Any] = {}

    def close(self) -> None:
        pass

    @property
    def slots(self) -> int:
        return 2

    def results(self) -> Iterator[tuple[WorkItem, Outcome]]:
        while self.queue:
            item = self.queue.pop()[2]
            heapq.heapify(self.queue)
            run_spec, sent, heads = pickle.loads(pickle.dumps((self.run_spec, item, self.heads.get(item.pair))))
            value, _ = ray.work_of(run_spec, sent, heads, 1)
            value = pickle.loads(pickle.dumps(value))
            if isinstance(item, FitHeads):
                self.heads[item.pair] = value
            yield item, value


def test_workers_that_load_encoders_and_datasets_by_name_write_the_same_rows_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data: dict[str, Any] = {"encoders": ["bundled:scenes", "bundled:scenes-deacl"], "head": HEAD, "steps": 1}
    data |= {"datasets": [{"name": "scenes", "limit": n, "size": (32, 32)} for n in (2, 3)], "tasks": ["depth"]}
    data |= {"attacks": ["embed", "depthpgd"], "sanity_images": 2, "examples": 0}
    suite, found = validated(Suite, data, "test"), []
    monkeypatch.setattr(ray, "_WORKER_STATES", {})
    for name in ("local", "remote"):
        store = Store(tmp_path / name).prepare()
        plan = make_plan(suite, store, Path("nowhere"), CPU)
        assert [pair.key for pair in plan.pairs] == [(0, 0), (0, 1), (1, 0), (1, 1)]
        if name == "remote":
            monkeypatch.setattr(run, "load_executor", Remote)
        assert execute(plan, store, quiet) == []
        found.append(contents(store))
        assert len(found[-1]) == 8
    assert found[0] == found[1]


def test_a_local_run_packs_what_it_writes_and_unpacks_nothing(
    tiny_encoder: Encoder, tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    inner = partial_results.packed

    def packed(shard: Any) -> bytes:
        written.append(len(shard.ids))
        return inner(shard)

    monkeypatch.setattr(partial_results, "packed", packed)
    monkeypatch.setattr(partial_results, "unpacked", lambda content: pytest.fail("read back"))
    plan, store = planned(tiny_encoder, tmp_path)
    assert execute(plan, store, quiet, ExecutorOptions(shard_size=4)) == []
    assert written == [4, 4, 3] * 2
    assert contents(store) == undisturbed
