"""Loaders of data on disk, on small folders in the official layouts that the tests write."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from robustprobe import Dataset, UserError, load_dataset
from robustprobe.datasets.cifar10 import CLASSES
from tests.folders import encoded, noise, nyu_millimetres, write_camvid, write_nyu, write_parquet

pytestmark = pytest.mark.unit


def everything(data: Dataset) -> list[str]:
    """Reads all images; their ids."""
    return [data[i].id for i in range(len(data))]


def assert_splits_are_disjoint(name: str, root: Path) -> None:
    ids = {split: load_dataset(name, root=root, split=split).kept_ids for split in ("train", "val", "test")}
    assert all(ids.values())
    assert len(set().union(*ids.values())) == sum(len(i) for i in ids.values())


# CIFAR-10


def write_cifar10(root: Path, split: str, count: int, folder: str = "cifar10") -> Path:
    return write_parquet(root / folder, split, count, "img", "label", 10)


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cifar10")
    write_cifar10(root, "train", 60)
    write_cifar10(root, "test", 40)
    return root


def test_cifar10_values_labels_and_ids(cifar10: Path) -> None:
    data = load_dataset("cifar10", root=cifar10, split="test")
    assert len(data) == 40
    for place in (0, 17, 39):
        sample = data[place]
        assert sample.id == f"test-{place:05d}"
        assert int(sample.targets["classification"]) == place % 10
        assert np.array_equal((sample.image * 255).round().byte().permute(1, 2, 0).numpy(), noise(place, 32, 32, 3))
    assert data.labels["classification"].classes == CLASSES
    assert CLASSES[3] == "cat"


def test_cifar10_splits(cifar10: Path) -> None:
    assert_splits_are_disjoint("cifar10", cifar10)
    train, val = (load_dataset("cifar10", root=cifar10, split=s) for s in ("train", "val"))
    assert (len(train), len(val)) == (54, 6)
    for data in (train, val):
        sample = data[2]
        assert int(sample.targets["classification"]) == int(sample.id.split("-")[1]) % 10


def test_cifar10_subsets_are_balanced(cifar10: Path) -> None:
    data = load_dataset("cifar10", root=cifar10, limit=20)
    labels = [int(data[i].targets["classification"]) for i in range(20)]
    assert np.bincount(labels).tolist() == [2] * 10
    assert set(load_dataset("cifar10", root=cifar10, limit=10).kept_ids) < set(data.kept_ids)


def test_cifar10_in_the_folder_of_the_hub_is_found(tmp_path: Path) -> None:
    write_cifar10(tmp_path, "test", 3, "cifar10/plain_text")
    assert load_dataset("cifar10", root=tmp_path).kept_ids == ["test-00000", "test-00001", "test-00002"]


def test_cifar10_in_several_files_is_joined(tmp_path: Path) -> None:
    first = write_cifar10(tmp_path, "test", 3)
    first.rename(first.with_name("test-00000-of-00002.parquet"))
    write_cifar10(tmp_path, "test", 2).rename(first.with_name("test-00001-of-00002.parquet"))
    data = load_dataset("cifar10", root=tmp_path)
    assert [int(data[i].targets["classification"]) for i in range(5)] == [0, 1, 2, 0, 1]


def test_cifar10_is_resized(cifar10: Path) -> None:
    assert load_dataset("cifar10", root=cifar10, size=(64, 48))[0].image.shape == (3, 64, 48)


def overwrite(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace_rows(**columns: Any) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.table(columns), path)


IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
IMAGE = {"bytes": encoded(noise(0, 32, 32, 3)), "path": ""}
BROKEN = {"bytes": IMAGE["bytes"][:200], "path": ""}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, r"no test images of cifar10 in .*; expected .*test\}-\*\.parquet"),
        (cut_short, "cannot be read as cifar10"),
        (overwrite(b""), "cannot be read as cifar10"),
        (overwrite(b"not parquet"), "cannot be read as cifar10"),
        (replace_rows(image=[IMAGE], fine_label=[0]), "cannot be read as cifar10: .*(img|label)"),
        (replace_rows(img=[IMAGE, IMAGE], label=[0, 10]), "image test-00001 has classification label 10"),
        (replace_rows(img=[BROKEN], label=[0]), "image test-00000 cannot be read"),
        (replace_rows(img=[{"bytes": None, "path": ""}], label=[0]), "image test-00000 cannot be read"),
        (replace_rows(img=[IMAGE, IMAGE], label=[0, None]), "label"),
        (replace_rows(img=pa.array([], IMAGE_TYPE), label=pa.array([], pa.int64())), "has no test images"),
    ],
)
@pytest.mark.parametrize("limit", [None, 1])
def test_wrong_cifar10_is_refused(
    tmp_path: Path, spoil: Callable[[Path], object], message: str, limit: int | None
) -> None:
    spoil(write_cifar10(tmp_path, "test", 3))
    with pytest.raises(UserError, match=message):
        everything(load_dataset("cifar10", root=tmp_path, limit=limit))


# CamVid


@pytest.fixture(scope="module")
def camvid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("camvid")
    write_camvid(root / "camvid", {"train": 20, "val": 3, "test": 4})
    return root


def test_camvid_values_labels_and_ids(camvid: Path) -> None:
    data = load_dataset("camvid", root=camvid, size=(36, 48))
    assert data.kept_ids == [f"test_{i}" for i in range(4)]
    for place in range(4):
        sample, mask = data[place], noise(place, 36, 48) % 12
        assert np.array_equal((sample.image * 255).round().byte().permute(1, 2, 0).numpy(), noise(place, 36, 48, 3))
        assert np.array_equal(sample.targets["segmentation"].numpy(), np.where(mask == 11, 255, mask))


def test_camvid_labels_keep_their_resolution(camvid: Path) -> None:
    sample = load_dataset("camvid", root=camvid, size=(16, 24))[0]
    assert sample.image.shape == (3, 16, 24)
    assert sample.targets["segmentation"].shape == (36, 48)


def test_camvid_splits(camvid: Path, tmp_path: Path) -> None:
    assert_splits_are_disjoint("camvid", camvid)
    assert load_dataset("camvid", root=camvid, split="val").kept_ids == ["val_0", "val_1", "val_2"]
    write_camvid(tmp_path / "camvid", {"train": 20, "val": 3})
    assert_splits_are_disjoint("camvid", tmp_path)
    assert load_dataset("camvid", root=tmp_path, split="test").kept_ids == ["val_0", "val_1", "val_2"]
    assert len(load_dataset("camvid", root=tmp_path, split="val")) == 2
    assert len(load_dataset("camvid", root=tmp_path, split="train")) == 18


MASK = Path("testannot/test_0.png")


@pytest.mark.parametrize(
    ("file", "spoil", "message"),
    [
        ("test.txt", overwrite(b"test/test_0.png\n"), "test.txt line 1 is 'test/test_0.png'; expected 'image mask'"),
        ("test.txt", overwrite(b"\n"), "has no test images"),
        ("test.txt", overwrite(b"\xff\xfe\x00"), r"test\.txt"),
        ("test/test_0.png", Path.unlink, "image test_0 cannot be read"),
        ("test/test_0.png", overwrite(b"not an image"), "image test_0 cannot be read"),
        ("test/test_0.png", cut_short, "image test_0 cannot be read"),
        (MASK, cut_short, "image test_0 cannot be read"),
        (MASK, Path.unlink, "image test_0 cannot be read"),
        (
            MASK,
            overwrite(encoded(np.full((36, 48), 12, np.uint8))),
            r"test_0\.png holds the value 12; expected 0 to 11",
        ),
        (
            MASK,
            overwrite(encoded(noise(0, 36, 48, 3) % 11)),
            r"test_0\.png is an image of mode RGB; expected class indices",
        ),
    ],
)
def test_wrong_camvid_is_refused(tmp_path: Path, file: str, spoil: Callable[[Path], object], message: str) -> None:
    spoil(write_camvid(tmp_path / "camvid", {"test": 2}) / file)
    with pytest.raises(UserError, match=message):
        everything(load_dataset("camvid", root=tmp_path))


@pytest.mark.parametrize("name", ["camvid", "nyu_depth_v2", "cifar10"])
def test_missing_folder_is_refused_with_the_layout(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"no {tmp_path}/{name}.*expected .*--data-root"):
        load_dataset(name, root=tmp_path)


def test_listed_file_that_is_missing_is_named_before_any_work(tmp_path: Path) -> None:
    (write_camvid(tmp_path / "camvid", {"test": 2}) / MASK).unlink()
    with pytest.raises(UserError, match=r"no .*test_0\.png; expected an image and its label map"):
        load_dataset("camvid", root=tmp_path).digest()


# NYU Depth v2


@pytest.fixture(scope="module")
def nyu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nyu")
    write_nyu(root / "nyu_depth_v2", {"train": 4, "test": 1})
    return root


def test_nyu_depth_is_metres_inside_the_eigen_crop(nyu: Path) -> None:
    sample = load_dataset("nyu_depth_v2", root=nyu, size=(48, 64))[0]
    assert sample.id == "test/rgb/0000"
    assert sample.image.shape == (3, 48, 64)
    depth, stored = sample.targets["depth"].numpy(), nyu_millimetres(0)
    inside = np.zeros((480, 640), dtype=bool)
    inside[45:471, 41:601] = True
    assert (depth[~inside] == 0).all()
    valid = inside & (stored > 0) & (stored < 10_000)
    np.testing.assert_allclose(depth[valid], stored[valid] / 1000, rtol=1e-6)
    assert (depth[inside & ~valid] == 0).all()
    assert depth[100, 100:104].tolist() == [0, pytest.approx(9.999), 0, 0]


def test_nyu_training_depth_is_not_cropped(nyu: Path) -> None:
    train, val = (load_dataset("nyu_depth_v2", root=nyu, split=s, size=(48, 64)) for s in ("train", "val"))
    assert (len(train), len(val)) == (3, 1)
    for data in (train, val):
        depth, place = data[0].targets["depth"], int(data.kept_ids[0][-4:])
        torch.testing.assert_close(depth[0], torch.from_numpy(nyu_millimetres(place)[0] / 1000).float())


def test_nyu_splits(nyu: Path) -> None:
    assert_splits_are_disjoint("nyu_depth_v2", nyu)


DEPTH = "test/depth/0000.png"


@pytest.mark.parametrize(
    ("file", "spoil", "message"),
    [
        ("nyu_test.txt", overwrite(b"test/rgb/0000.jpg test/depth/0000.png"), "line 1 .*expected 'rgb depth focal'"),
        (DEPTH, overwrite(encoded(noise(0, 48, 64).astype(np.uint16))), r"shape \(48, 64\); expected \(480, 640\)"),
        (DEPTH, overwrite(encoded(noise(0, 480, 640, 3))), r"shape \(480, 640, 3\)"),
        (DEPTH, overwrite(encoded(noise(0, 480, 640))), r"0000\.png.*16"),
        (DEPTH, cut_short, "image test/rgb/0000 cannot be read"),
        ("test/rgb/0000.jpg", cut_short, "image test/rgb/0000 cannot be read"),
        ("test/rgb/0000.jpg", overwrite(b""), "image test/rgb/0000 cannot be read"),
        ("test/rgb/0000.jpg", Path.unlink, "image test/rgb/0000 cannot be read"),
    ],
)
def test_wrong_nyu_is_refused(tmp_path: Path, file: str, spoil: Callable[[Path], object], message: str) -> None:
    spoil(write_nyu(tmp_path / "nyu_depth_v2", {"test": 1}) / file)
    with pytest.raises(UserError, match=message):
        everything(load_dataset("nyu_depth_v2", root=tmp_path))
