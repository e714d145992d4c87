"""Runs by Ray: the same rows for any number of workers, and a worker that dies costs its shard only."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from robustprobe.core.errors import UserError
from robustprobe.core.spec import ExecutorOptions, Suite
from robustprobe.core.spec_base import validated
from robustprobe.encoders import Encoder
from robustprobe.evaluation.cells import Plan
from robustprobe.evaluation.executors.ray import import_ray
from robustprobe.evaluation.plan import make_plan
from robustprobe.evaluation.run import RunProgress, execute
from robustprobe.results.store import Store
from tests.e2e.program import Answer, start
from tests.runs import contents, quiet

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")]

HEAD = {"train_limit": 24, "epochs": 1, "batch_size": 8, "learning_rates": (3e-3,)}


@pytest.fixture(scope="session")
def four_workers(head_cache: Path) -> Iterator[None]:
    """Ray on this machine, with room for four workers of one thread each."""
    # Not `import ray`: under `uv run` Ray would rebuild this environment for every worker.
    ray = import_ray()
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        logging_level="error",
        log_to_driver=False,
        object_store_memory=128 * 2**20,
    )
    yield
    ray.shutdown()


def planned(encoder: Encoder, out: Path) -> tuple[Plan, Store]:
    data = {"encoders": ["tiny"], "datasets": [{"name": "scenes", "limit": 13, "size": (16, 16)}], "head": HEAD}
    data |= {
        "attacks": ["embed", "pgd", "segpgd", "depthpgd"],
        "steps": 3,
        "sanity_images": 2,
        "examples": 2,
        "batch_size": 4,
        "tasks": ["classification", "segmentation", "depth"],
    }
    store = Store(out).prepare()
    return make_plan(validated(Suite, data, "test"), store, Path("nowhere"), torch.device("cpu"), [encoder]), store


@pytest.fixture(scope="module")
def alone(tiny_encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run in this process leaves."""
    plan, store = planned(tiny_encoder, tmp_path_factory.mktemp("alone"))
    assert execute(plan, store, quiet) == []
    return contents(store)


@pytest.mark.parametrize(("workers", "size"), [(1, 5), (2, 3), (4, 1)])
def test_rows_are_those_of_a_run_in_one_process(
    four_workers: None, tiny_encoder: Encoder, tmp_path: Path, alone: dict[str, Any], workers: int, size: int
) -> None:
    plan, store = planned(tiny_encoder, tmp_path)
    assert execute(plan, store, quiet, ExecutorOptions(executor="ray", workers=workers, shard_size=size)) == []
    assert len(alone) == 12
    assert contents(store) == alone
    assert not (tmp_path / "shards").exists()


def workers_below(process: int) -> list[int]:
    """Ray's workers among the processes below one."""
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            title = Path(f"/proc/{child}/cmdline").read_bytes()
            found += [child] if title.startswith(b"ray::work_of") else workers_below(child)
    return found


@pytest.fixture
def strike() -> Iterator[Callable[[int], None]]:
    """Sends a signal to the first worker that is seen at work; it is gone in the end."""
    struck: list[int] = []

    def watch(number: int) -> None:
        while not struck:
            try:
                for worker in workers_below(os.getpid())[:1]:
                    os.kill(worker, number)
                    struck.append(worker)
            except OSError:
                pass
            time.sleep(0.01)

    def begin(number: int) -> None:
        threading.Thread(target=watch, args=(number,), daemon=True).start()

    yield begin
    assert struck
    with contextlib.suppress(ProcessLookupError):
        os.kill(struck[0], signal.SIGKILL)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
def test_a_killed_worker_costs_its_shard_only(
    four_workers: None, tiny_encoder: Encoder, tmp_path: Path, alone: dict[str, Any], strike: Callable[[int], None]
) -> None:
    plan, store = planned(tiny_encoder, tmp_path)
    said: list[str] = []
    strike(signal.SIGKILL)
    assert execute(plan, store, quiet, ExecutorOptions(executor="ray", workers=2, shard_size=2), said.append) == []
    assert "its shard is tried again" in said[0]
    assert contents(store) == alone


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
def test_a_worker_that_stands_still_does_not_hold_up_the_run(
    four_workers: None,
    tiny_encoder: Encoder,
    tmp_path: Path,
    alone: dict[str, Any],
    strike: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("robustprobe.evaluation.executors.ray.LEAST_SLOW", 1.0)
    plan, store = planned(tiny_encoder, tmp_path)
    said: list[str] = []

    def notify(progress: RunProgress) -> None:
        if progress.finished and "heads" in progress.label:
            strike(signal.SIGSTOP)

    assert execute(plan, store, notify, ExecutorOptions(executor="ray", workers=2, shard_size=2), said.append) == []
    assert any("a second worker has begun it too" in text for text in said)
    assert contents(store) == alone
    assert not (tmp_path / "shards").exists()


def test_a_machine_that_is_lost_costs_its_shards_only(suite_file: Path, finished: Path, tmp_path: Path) -> None:
    """Two nodes on this machine stand for two machines: each has its own raylet and workers."""
    import_ray()
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": 128 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=size)
    try:
        other = cluster.add_node(num_cpus=1, object_store_memory=128 * 2**20)
        options = ["--executor", "ray", "--ray-address", cluster.address, "--shard-size", 2]
        process = start("run", suite_file, "--out", tmp_path / "results", *options)
        while process.poll() is None and len(list(tmp_path.glob("results/shards/*/*.pt"))) < 3:
            time.sleep(0.01)
        assert process.poll() is None
        cluster.remove_node(other, allow_graceful=False)
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
    finally:
        cluster.shutdown()
    assert contents(Store(tmp_path / "results")) == contents(Store(finished))


def test_ray_that_does_not_come_up_is_said_in_a_line(
    call: Any, suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = import_ray()

    def fail(**settings: Any) -> None:
        raise Exception("The current node timed out during startup.\nMore of it.")

    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    answer: Answer = call("run", suite_file, "--out", tmp_path, "--executor", "ray")
    assert answer.code == 1
    assert "Ray is not available on this machine: The current node timed out during startup. Nothing" in answer.err


def test_without_ray_it_says_what_to_install(
    call: Any, suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    answer: Answer = call("run", suite_file, "--out", tmp_path, "--executor", "ray")
    assert answer.code == 1
    assert "pip install 'robustprobe[ray]'" in answer.err


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--executor", "rya"], "Did you mean 'ray'?"),
        (["--ray-address", "auto"], "--executor ray"),
        (["--workers", 2], "--executor ray"),
    ],
)
def test_wrong_options(call: Any, suite_file: Path, tmp_path: Path, options: list[Any], word: str) -> None:
    answer: Answer = call("run", suite_file, "--out", tmp_path, *options)
    assert answer.code == 1
    assert word in answer.err


def test_from_python(four_workers: None, tiny_encoder: Encoder) -> None:
    import robustprobe as rp

    def table(**how: Any) -> Any:
        settings: dict[str, Any] = {"limit": 6, "eps": "8/255", "steps": 2, "sanity_images": 0, "head": HEAD}
        return rp.evaluate(tiny_encoder, ["scenes"], ["clean", "pgd"], **settings, **how)

    alone, spread = table(), table(executor="ray", workers=2)
    assert len(alone) > 0
    assert alone.drop(columns="started").equals(spread.drop(columns="started"))


def test_an_unknown_executor_from_python(tiny_encoder: Encoder) -> None:
    import robustprobe as rp

    with pytest.raises(UserError, match="Did you mean 'ray'"):
        rp.evaluate(tiny_encoder, ["scenes"], ["clean"], limit=2, executor="rya", head=HEAD)


def test_workers_without_ray_from_python(tiny_encoder: Encoder) -> None:
    import robustprobe as rp

    with pytest.raises(UserError, match="for the executor ray"):
        rp.evaluate(tiny_encoder, ["scenes"], ["clean"], limit=2, workers=2, head=HEAD)
