"""CIFAR and STL-10 in their three editions: the same rows, and no code run."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from robustprobe import UserError, load_dataset
from robustprobe.datasets._pickles import ArrayUnpickler
from robustprobe.datasets.cifar100 import CLASSES
from tests.folders import (
    table_pixels,
    write_binary,
    write_cifar10_pickles,
    write_parquet,
    write_pickle,
    write_stl10_binary,
)

pytestmark = pytest.mark.unit

Write = Callable[[Path], object]


def cifar10_binary(folder: Path) -> None:
    for number, part in enumerate(np.array_split(np.arange(60), 5), 1):
        write_binary(folder / f"data_batch_{number}.bin", table_pixels(60)[part], [[int(i) % 10] for i in part])
    write_binary(folder / "test_batch.bin", table_pixels(40), [[i % 10] for i in range(40)])


def cifar100_pickles(folder: Path) -> None:
    for split, count in (("train", 60), ("test", 40)):
        write_pickle(folder / split, table_pixels(count), list(range(count)), "fine_labels")


def cifar100_binary(folder: Path) -> None:
    for split, count in (("train", 60), ("test", 40)):
        write_binary(folder / f"{split}.bin", table_pixels(count), [[i % 20, i] for i in range(count)])


def stl10_binary(folder: Path) -> None:
    write_stl10_binary(folder, "train", 60)
    write_stl10_binary(folder, "test", 40)


def hub(image: str, label: str, classes: int, side: int = 32) -> Write:
    def write(folder: Path) -> None:
        for split, count in (("train", 60), ("test", 40)):
            write_parquet(folder, split, count, image, label, classes, side)

    return write


EDITIONS: dict[str, dict[str, Write]] = {
    "cifar10": {
        "cifar10": hub("img", "label", 10),
        "cifar10/plain_text": hub("img", "label", 10),
        "cifar10/cifar-10-batches-py": write_cifar10_pickles,
        "cifar-10-batches-py": write_cifar10_pickles,
        "cifar10/cifar-10-batches-bin": cifar10_binary,
        "cifar-10-batches-bin": cifar10_binary,
    },
    "cifar100": {
        "cifar100": hub("img", "fine_label", 100),
        "cifar100/cifar100": hub("img", "fine_label", 100),
        "cifar100/cifar-100-python": cifar100_pickles,
        "cifar-100-binary": cifar100_binary,
    },
    "stl10": {
        "stl10": hub("image", "label", 10, 96),
        "stl10/data": hub("image", "label", 10, 96),
        "stl10/stl10_binary": stl10_binary,
        "stl10_binary": stl10_binary,
    },
}


@pytest.mark.parametrize(("name", "place"), [(name, place) for name, known in EDITIONS.items() for place in known])
def test_every_edition_holds_the_same_images_under_the_same_ids(tmp_path: Path, name: str, place: str) -> None:
    EDITIONS[name][place](tmp_path / place)
    pixels = {
        split: table_pixels(count, 96 if name == "stl10" else 32) for split, count in (("train", 60), ("test", 40))
    }
    seen = set()
    for split, count in (("train", 54), ("val", 6), ("test", 40)):
        data = load_dataset(name, root=tmp_path, split=split)
        assert len(data) == count
        for sample in data:
            official, row = sample.id.split("-")
            found = (sample.image * 255).round().byte().permute(1, 2, 0).numpy()
            assert np.array_equal(found, pixels[official][int(row)])
            assert int(sample.targets["classification"]) == int(row) % (100 if name == "cifar100" else 10)
            seen.add(sample.id)
    assert len(seen) == 100


def test_archives_written_by_python_3_are_read(tmp_path: Path) -> None:
    pixels = table_pixels(2)
    content = {b"data": pixels.transpose(0, 3, 1, 2).reshape(2, -1), b"fine_labels": [7, 99]}
    path = write_pickle(tmp_path / "cifar-100-python" / "test", pixels, [0, 1], "fine_labels")
    for protocol in (2, 4):
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        found = load_dataset("cifar100", root=tmp_path)
        assert [int(sample.targets["classification"]) for sample in found] == [7, 99]
        assert torch.equal(found[1].image, torch.from_numpy(pixels[1]).permute(2, 0, 1).float() / 255)


class Malicious:
    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.made = (call, arguments)

    def __reduce__(self) -> Any:
        return self.made


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "trap"
    for call, arguments in ((Path.touch, (trap,)), (eval, (f"open({str(trap)!r}, 'w')",)), (exec, ("import os",))):
        content = {b"data": Malicious(call, *arguments), b"labels": [0]}
        folder = write_cifar10_pickles(tmp_path / "cifar-10-batches-py")
        (folder / "test_batch").write_bytes(pickle.dumps(content, protocol=protocol))
        with pytest.raises(UserError, match=r"a pickle asks for .*; it is not loaded"):
            load_dataset("cifar10", root=tmp_path)
    assert not trap.exists()


@pytest.mark.parametrize("name", ["numpy.fromfile", "numpy.memmap", "numpy._core.multiarray.fromstring", "os.system"])
def test_only_the_parts_of_arrays_are_admitted(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    with pytest.raises(UserError, match=f"asks for {name}"):
        ArrayUnpickler(io.BytesIO(f"c{module}\n{attribute}\n.".encode())).load()


def fewer_labels(folder: Path) -> None:
    write_pickle(folder / "cifar-10-batches-py" / "test_batch", table_pixels(3), [0, 1], "labels")


def no_labels(folder: Path) -> None:
    write_pickle(folder / "cifar-10-batches-py" / "test_batch", table_pixels(3), [0, 1, 2], "fine_labels")


def label_10(folder: Path) -> None:
    write_pickle(folder / "cifar-10-batches-py" / "test_batch", table_pixels(2), [0, 10], "labels")


def cut_batch(folder: Path) -> None:
    path = folder / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(path.read_bytes()[:5000])


def cut_rows(folder: Path) -> None:
    cifar10_binary(folder / "cifar-10-batches-bin")
    path = folder / "cifar-10-batches-bin" / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1])
    for path in (folder / "cifar-10-batches-py").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (fewer_labels, "holds 3 images and 2 labels"),
        (no_labels, "cannot be read as cifar10: KeyError"),
        (label_10, "image test-00001 has classification label 10"),
        (cut_batch, "cannot be read as cifar10"),
        (cut_rows, r"test_batch\.bin has .* bytes, not a whole number of rows"),
    ],
)
def test_wrong_archives_are_refused(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    write_cifar10_pickles(tmp_path / "cifar10" / "cifar-10-batches-py")
    spoil(tmp_path / "cifar10")
    with pytest.raises(UserError, match=message):
        list(load_dataset("cifar10", root=tmp_path))


def test_a_missing_batch_is_named(tmp_path: Path) -> None:
    (write_cifar10_pickles(tmp_path / "cifar-10-batches-py") / "data_batch_3").unlink()
    with pytest.raises(UserError, match=r"no .*data_batch_3, although the other files of cifar10 exist"):
        load_dataset("cifar10", root=tmp_path, split="train")


@pytest.mark.parametrize("file", ["test_X.bin", "test_y.bin"])
def test_wrong_stl10_is_refused(tmp_path: Path, file: str) -> None:
    path = write_stl10_binary(tmp_path / "stl10_binary", "test", 3) / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"whole number of images|3 images and 2 labels"):
        load_dataset("stl10", root=tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=f"no .*{file}, although the other files of stl10 exist"):
        load_dataset("stl10", root=tmp_path)


def test_stl10_label_0_is_refused(tmp_path: Path) -> None:
    (write_stl10_binary(tmp_path / "stl10_binary", "test", 2) / "test_y.bin").write_bytes(b"\x01\x00")
    with pytest.raises(UserError, match="image test-00001 has classification label -1"):
        list(load_dataset("stl10", root=tmp_path))


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
def test_a_missing_split_is_refused_with_the_layout(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"no train images of {name} in .*; expected .*parquet"):
        load_dataset(name, root=tmp_path, split="train")


def test_the_fine_classes_are_in_the_official_order() -> None:
    assert len(set(CLASSES)) == 100
    assert list(CLASSES) == sorted(CLASSES)


@pytest.mark.parametrize(
    ("name", "place", "theirs", "options"),
    [
        ("cifar10", "cifar-10-batches-py", torchvision.datasets.CIFAR10, {"train": False}),
        ("cifar100", "cifar100/cifar-100-python", torchvision.datasets.CIFAR100, {"train": False}),
        ("stl10", "stl10_binary", torchvision.datasets.STL10, {"split": "test"}),
    ],
)
def test_torchvision_reads_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str, theirs: Any, options: dict[str, Any]
) -> None:
    EDITIONS[name][place](tmp_path / place)
    # The written files are not the official ones.
    for part in ("_check_integrity", "_load_meta"):
        if hasattr(theirs, part):
            monkeypatch.setattr(theirs, part, lambda self: True)
    if name == "stl10":
        (tmp_path / place / "class_names.txt").write_text("x")
        (tmp_path / place / "fold_indices.txt").write_text("x")
    reference = theirs((tmp_path / place).parent, **options)
    data = load_dataset(name, root=tmp_path)
    assert len(reference) == len(data)
    for sample, (image, label) in zip(data, reference, strict=True):
        assert np.array_equal((sample.image * 255).round().byte().permute(1, 2, 0).numpy(), np.array(image))
        assert int(sample.targets["classification"]) == int(label)
