"""Memory as the system tells it."""

import mmap
from pathlib import Path

import pytest
import torch

from robustprobe.core import device
from robustprobe.core.device import PeakMemory

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")
LARGE = 256 * 2**20


def take_and_give_back() -> None:
    # Not by the allocator, which may have as much left over from other tests.
    with mmap.mmap(-1, LARGE) as held:
        held.write(b"x" * LARGE)


@pytest.mark.skipif(PeakMemory(CPU).bytes is None, reason="this system does not tell")
def test_the_peak_holds_what_was_given_back_since_and_nothing_from_before() -> None:
    take_and_give_back()
    first = PeakMemory(CPU)
    before = first.bytes
    take_and_give_back()
    after, fresh = first.bytes, PeakMemory(CPU).bytes
    assert before is not None
    assert after is not None
    assert fresh is not None
    assert after - before > 0.9 * LARGE
    assert after - fresh > 0.9 * LARGE


@pytest.mark.parametrize("files", [(), ("clear_refs",), ("clear_refs", "status")])
def test_where_the_system_does_not_tell_there_is_no_peak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...]
) -> None:
    (tmp_path / "away").mkdir()
    position = tmp_path / "away" if files else tmp_path / "nowhere"
    for name in files:
        (position / name).write_text("Name: x\n")
    monkeypatch.setattr(device, "PROCESS", position)
    assert PeakMemory(CPU).bytes is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu_the_peak_is_that_of_tensors() -> None:
    gpu = torch.device("cuda")
    first = PeakMemory(gpu)
    before = first.bytes
    held = torch.zeros(LARGE, dtype=torch.uint8, device=gpu)
    del held
    after, fresh = first.bytes, PeakMemory(gpu).bytes
    assert before is not None
    assert after is not None
    assert fresh is not None
    assert after - before >= LARGE
    assert after - fresh >= LARGE
