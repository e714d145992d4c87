"""Finished shards on disk: whole, without doubles, and thrown away where a bit has changed."""

from pathlib import Path

import pytest
import torch

from robustprobe.evaluation.collect import Judged, KeptImage
from robustprobe.evaluation.partial_results import DamagedError, PartialResult, PartialResultFolder, packed, unpacked

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
