"""A number belongs to what the files held: labels that are mended make it anew, with a new head."""

import itertools
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import robustprobe as rp
from robustprobe.core.errors import UserError
from robustprobe.datasets import Dataset, load_dataset
from robustprobe.probing import Fitted, probes
from robustprobe.tasks import Task
from tests import folders

pytestmark = pytest.mark.unit


def value(spec: str, out: Path, **options: Any) -> dict[str, Any]:
    options = {"limit": 3, "sanity_images": 0, "head": {"epochs": 2, "batch_size": 4}, **options}
    found = rp.evaluate("bundled:photos", [spec], ["clean"], out=out, **options)
    return {"fingerprint": found.fingerprint[0], "value": found.value[0]}


def in_place(path: Path, change: Callable[[Any], Any]) -> None:
    """Other labels in a file of the same name and size."""
    before = path.stat().st_size
    Image.fromarray(change(np.array(Image.open(path)))).save(path)
    assert path.stat().st_size == before


def masks(folder: Path) -> str:
    for split, count in (("train", 8), ("test", 3)):
        for number in range(count):
            pixels = folders.noise(number, 32, 32, 3)
            folders.save(folder / "images" / split / f"{number}.bmp", pixels)
            folders.save(
                folder / "masks" / split / f"{number}.bmp", (pixels[..., 0] > 60 + 5 * number).astype(np.uint8)
            )
    (folder / "classes.txt").write_text("dark\nlight\n")
    return f"segfolder:{folder}"


def test_labels_mended_in_place_give_a_new_head_and_a_new_number(tmp_path: Path) -> None:
    spec = masks(tmp_path / "data")
    first = value(spec, tmp_path / "out")
    assert value(spec, tmp_path / "out") == first
    for path in (tmp_path / "data" / "masks").rglob("*.bmp"):
        in_place(path, lambda mask: 1 - mask)
    mended = value(spec, tmp_path / "out")
    assert mended["fingerprint"] != first["fingerprint"]
    assert value(spec, tmp_path / "new")["value"] == mended["value"]


@pytest.mark.parametrize("part", ["images/train/0.bmp", "masks/train/7.bmp", "images/test/1.bmp", "masks/test/2.bmp"])
def test_one_file_is_enough(tmp_path: Path, part: str) -> None:
    spec = masks(tmp_path / "data")
    first = value(spec, tmp_path / "out")["fingerprint"]
    in_place(tmp_path / "data" / part, lambda pixels: np.ascontiguousarray(pixels[::-1]))
    assert value(spec, tmp_path / "out")["fingerprint"] != first


def test_files_that_a_limit_leaves_out_do_not_count(tmp_path: Path) -> None:
    spec = masks(tmp_path / "data")
    kept = load_dataset(spec, limit=2)
    before = kept.digest()
    left_out = {f"test/{number}" for number in range(3)} - set(kept.kept_ids)
    in_place(tmp_path / "data" / f"masks/{left_out.pop()}.bmp", lambda mask: 1 - mask)
    assert kept.digest() == before
    in_place(tmp_path / "data" / f"masks/{kept.kept_ids[0]}.bmp", lambda mask: 1 - mask)
    assert kept.digest() != before


def test_a_sample_of_a_shard_is_known_by_what_it_holds(tmp_path: Path) -> None:
    folders.write_shards(tmp_path, {"train": 4, "test": 2})
    spec, shard = f"webdataset:{tmp_path}", tmp_path / "test-0000.tar"
    digests = {load_dataset(spec).digest()}
    with tarfile.open(shard) as tar:
        places = [member.offset_data for member in tar.getmembers() if member.size]
    for place in (places[0] + 50, places[1]):  # a pixel of the first image, and its class
        content = bytearray(shard.read_bytes())
        content[place] ^= 1
        shard.write_bytes(content)
        digests.add(load_dataset(spec).digest())
    assert len(digests) == 3


def test_files_that_change_while_they_are_read_leave_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = masks(tmp_path / "data")
    value(spec, tmp_path / "out")  # the head is fitted
    read, times = Dataset.__getitem__, itertools.count()

    def read_and_mend(data: Dataset, position: int) -> Any:
        sample = read(data, position)
        # The plan looks at labels before the run does.
        if data.split == "test" and position == 2 and next(times) == 1:
            in_place(tmp_path / "data" / "masks/test/0.bmp", lambda mask: 1 - mask)
        return sample

    monkeypatch.setattr(Dataset, "__getitem__", read_and_mend)
    with pytest.raises(UserError, match="changed while they were read"):
        value(spec, tmp_path / "new")
    assert not list((tmp_path / "new").rglob("*.parquet"))


@pytest.mark.parametrize("what", ["a mask", "the program"])
def test_a_head_is_not_kept_where_its_files_change_while_it_is_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setenv("ROBUSTPROBE_CACHE", str(tmp_path / "cache"))
    spec, inner = masks(tmp_path / "data"), probes.ProbeFitter.fit

    def fit_and_change(fitter: probes.ProbeFitter, task: Task, key: str) -> Fitted:
        found = inner(fitter, task, key)
        if what == "a mask":
            in_place(tmp_path / "data" / "masks/train/0.bmp", lambda mask: 1 - mask)
        else:
            monkeypatch.setattr(probes, "code_digest", lambda: "edited meanwhile")
        return found

    monkeypatch.setattr(probes.ProbeFitter, "fit", fit_and_change)
    if what == "a mask":
        with pytest.raises(UserError, match=r"files of segfolder.* changed while a head was fitted on them"):
            value(spec, tmp_path / "out")
    else:
        value(spec, tmp_path / "out")


def test_content_is_the_same_at_every_size_and_another_for_other_images(tmp_path: Path) -> None:
    folders.write_segfolder(tmp_path, {"train": 2, "test": 3})
    name = f"segfolder:{tmp_path}"
    small, large = (load_dataset(name, size=size).digests() for size in ((16, 16), (32, 32)))
    assert small[1] == large[1] != small[0] != large[0]
    assert load_dataset(name, size=(16, 16)).digest() == small[0]
    assert load_dataset(name, size=(16, 16), limit=2).digests()[1] != small[1]
    mask = tmp_path / "masks" / "test" / "0.png"
    Image.fromarray(1 - np.minimum(np.array(Image.open(mask)), 1)).save(mask)
    assert load_dataset(name, size=(32, 32)).digests()[1] != large[1]
