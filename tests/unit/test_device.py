"""Memory as the system tells it."""

import mmap
from pathlib import Path

import pytest
import torch

from robustprobe.core import device
from robustprobe.core.device import Clocks, PeakMemory, seconds_of

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


class PretendedWork:
    """A call and the clocks that watch it: `wall` seconds pass, of which the calling thread computes `own`, and all
    threads together `all_threads`.
    """

    def __init__(self, wall: float, own: float, all_threads: float) -> None:
        self.step, self.spent, self.calls = (wall, own, all_threads), [0.0, 0.0, 0.0], 0
        self.clocks = Clocks(*(lambda number=number: self.spent[number] for number in range(3)))

    def __call__(self) -> None:
        self.calls += 1
        self.spent = [spent + step for spent, step in zip(self.spent, self.step, strict=True)]


@pytest.mark.parametrize(
    ("wall", "own", "all_threads", "computing"),
    [
        (0.1, 0.1, 0.2, 0.1),  # two threads on two free cores
        (0.1, 0.1, 0.1, 0.1),  # a call of one thread, however many torch may use
        (0.4, 0.05, 0.2, 0.1),  # two threads that get half of a core, one of them less
        (0.4, 0.1, 0.1, 0.1),
        (0.1, 0.0, 0.0, 0.1),  # a processor's clock that is coarser than the call
    ],
)
def test_other_work_on_the_machine_does_not_count_as_computing(
    wall: float, own: float, all_threads: float, computing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    work = PretendedWork(wall, own, all_threads)
    found = seconds_of(work, torch.device("cpu"), work.clocks)
    assert (found.computing, found.clock) == pytest.approx((computing, wall))
    assert work.calls == 3
    slow = PretendedWork(10 * wall, 10 * own, 10 * all_threads)
    found = seconds_of(slow, torch.device("cpu"), slow.clocks)
    assert (found.computing, found.clock) == pytest.approx((10 * computing, 10 * wall))
    assert slow.calls == 1


def test_an_accelerator_is_waited_for_and_measured_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    work = PretendedWork(0.1, 0.01, 0.01)
    found = seconds_of(work, torch.device("cuda"), work.clocks)
    assert (found.computing, found.clock) == pytest.approx((0.1, 0.1))
    assert waited == [torch.device("cuda")] * 4
