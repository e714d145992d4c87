"""Batches follow the memory that is free and what an image was measured to take; the plan says the peak."""

import sys
from pathlib import Path

import pytest
import torch

from robustprobe.core import device as devices
from robustprobe.core.spec import Suite
from robustprobe.core.spec_base import validated
from robustprobe.evaluation import cost
from robustprobe.evaluation.cells import Plan
from robustprobe.evaluation.cost import PassMemory, pair_batch
from robustprobe.evaluation.plan import make_plan
from robustprobe.results.store import Store

pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(sys.platform != "linux", reason="memory of a process is known on Linux only"),
]
CPU = torch.device("cpu")


def planned(tmp_path: Path, batch: int) -> Plan:
    described = {
        "encoders": ["bundled:scenes"],
        "datasets": [{"name": "scenes", "limit": 64}],
        "tasks": ["segmentation"],
        "attacks": ["clean", "segpgd"],
        "head": {"train_limit": 8},
        "batch_size": batch,
    }
    return make_plan(validated(Suite, described, "it"), Store(tmp_path), tmp_path, CPU)


def test_what_a_call_holds_is_measured() -> None:
    held = devices.bytes_of(lambda: torch.ones(64 * 2**20, dtype=torch.uint8), CPU)
    assert held is not None
    assert 60 * 2**20 < held < 90 * 2**20
    free = devices.free_memory(CPU)
    assert free is not None
    assert free > 2**26


def test_a_container_limits_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "CONTAINER", tmp_path)
    (tmp_path / "memory.max").write_text(f"{3 * 2**20}\n")
    (tmp_path / "memory.current").write_text(f"{2**20}\n")
    assert devices.free_memory(CPU) == 2 * 2**20
    (tmp_path / "memory.max").write_text("max\n")
    free = devices.free_memory(CPU)
    assert free is not None
    assert free > 2**26
    monkeypatch.setattr(devices, "MEMORY", tmp_path / "nowhere")
    assert devices.free_memory(CPU) is None


@pytest.mark.parametrize(("images", "batch"), [(1000, 64), (10, 10), (1.5, 1), (0.1, 1)])
def test_a_batch_takes_half_of_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: float, batch: int
) -> None:
    (pair,) = planned(tmp_path, 64).pairs
    view, memory = next(iter(pair.heads.views.values())), PassMemory(CPU)
    each = memory.image_bytes(pair.encoder, view, pair.data)
    assert each > 4 * 3 * 64 * 64
    free = int(2 * each * images + 1)
    monkeypatch.setattr(cost, "free_memory", lambda device: free)
    assert pair_batch(64, pair.encoder, view, pair.data, memory) == batch
    monkeypatch.setattr(cost, "free_memory", lambda device: None)
    assert pair_batch(64, pair.encoder, view, pair.data, memory) == 64


def test_the_plan_says_a_peak_that_grows_with_the_batch(tmp_path: Path) -> None:
    small, large = planned(tmp_path, 1).peak_bytes, planned(tmp_path, 64).peak_bytes
    assert small is not None
    assert large is not None
    assert 2**26 < small < large
