"""Finished shards on disk: whole, without doubles, and thrown away where a bit has changed."""

import shutil
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path

import pytest
import torch

from robustprobe.evaluation.collect import Judged, KeptImage
from robustprobe.evaluation.partial_results import DamagedError, PartialResult, PartialResultFolder, packed, unpacked
from robustprobe.results.store import Store

pytestmark = pytest.mark.unit


def shard(*ids: str) -> PartialResult:
    values = torch.arange(len(ids), dtype=torch.float32)
    kept = KeptImage(
        3,
        ids[0],
        torch.rand(3, 2, 2),
        torch.rand(3, 2, 2),
        values[0],
        {"depth": values},
        {"depth": values},
        {"depth": 0.5},
    )
    rows = {"classification": {"correct": values > 0}}
    piece = Judged(values.long(), list(ids), values, values, values, (3, 2), (0.0, 1.0), rows, rows, [kept])
    return PartialResult(ids, [(piece,)], 2**30)


def test_a_shard_comes_back_as_it_was() -> None:
    one = shard("a", "b")
    again = unpacked(packed(one))
    assert again.ids == ("a", "b")
    assert again.peak == 2**30
    (piece,), (wanted,) = again.batches[0], one.batches[0]
    assert piece.ids == wanted.ids
    assert piece.passes == (3, 2)
    assert torch.equal(piece.rows["classification"]["correct"], wanted.rows["classification"]["correct"])
    assert torch.equal(piece.kept[0].adversarial, wanted.kept[0].adversarial)


@pytest.mark.parametrize("where", [0, 40, -1])
def test_a_flipped_bit_is_found_and_the_shard_thrown_away(tmp_path: Path, where: int) -> None:
    content = bytearray(packed(shard("a")))
    content[where] ^= 1
    with pytest.raises(DamagedError):
        unpacked(bytes(content))
    folder = PartialResultFolder(tmp_path, "job")
    folder.keep(shard("a"))
    folder.keep(shard("b"))
    (damaged,) = [path for path in folder.folder.iterdir() if unpacked(path.read_bytes()).ids == ("a",)]
    damaged.write_bytes(content)
    assert [found.ids for found in folder.load(["a", "b"])] == [("b",)]
    assert len(list(folder.folder.iterdir())) == 1


def test_no_image_is_taken_twice(tmp_path: Path) -> None:
    folder = PartialResultFolder(tmp_path, "job")
    for one in (shard("a", "b"), shard("b", "c"), shard("d"), shard("x")):
        folder.keep(one)
    found = [name for one in folder.load(["a", "b", "c", "d"]) for name in one.ids]
    assert len(found) == len(set(found)) == 3
    assert "d" in found
    folder.remove()
    assert not (tmp_path / "shards").exists()


def _use_folder(folder: str, rounds: int, faults: "Queue[str]") -> None:
    """What a run does with the shards of a job, over and over; tells what was raised."""
    job, store = PartialResultFolder(Path(folder), "job"), Store(Path(folder))
    names = [f"i{number}" for number in range(3)]
    for number in range(rounds):
        try:
            store.prepare()
            job.keep(PartialResult((names[number % 3],), []))
            job.load(names)
            job.remove()
        except Exception as error:
            faults.put(repr(error))
    faults.put("")


def test_runs_in_one_folder_remove_each_others_shards_without_harm(tmp_path: Path) -> None:
    """Before, one run in about ten ended with FileNotFoundError when the other finished the same job."""
    context = get_context("spawn")
    faults: Queue[str] = context.Queue()
    runs = [context.Process(target=_use_folder, args=(str(tmp_path), 200, faults)) for _ in range(3)]
    for run in runs:
        run.start()
    said, ended = [], 0
    while ended < len(runs):
        text = faults.get(timeout=120)
        ended += not text
        said += [text] if text else []
    for run in runs:
        run.join()
    assert said == []


def test_a_folder_of_results_that_is_gone_is_said(tmp_path: Path) -> None:
    job = PartialResultFolder(tmp_path / "gone", "job")
    job.keep(PartialResult(("a",), []))
    shutil.rmtree(tmp_path / "gone")
    assert job.load(["a"]) == []
