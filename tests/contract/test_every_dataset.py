"""Every registered dataset says what it is; those that are here are read."""

from pathlib import Path

import pytest
import torch

from robustprobe import Dataset, load_dataset
from robustprobe.datasets import find_dataset
from robustprobe.datasets._base import SPLITS
from robustprobe.registry import datasets, tasks

pytestmark = pytest.mark.contract

NAMES = datasets.names()
REAL_DATA = Path(__file__).parents[3] / "shared" / "data"


def kind(name: str) -> Dataset:
    return find_dataset(name, root=REAL_DATA)


@pytest.mark.parametrize("name", NAMES)
def test_class_says_what_labels_sizes_and_terms_are(name: str) -> None:
    dataset = kind(name)
    assert dataset.labels
    assert set(dataset.labels) <= set(tasks.names())
    for task, space in dataset.labels.items():
        if task == "depth":
            assert 0 < space.min_depth < space.max_depth
            continue
        assert len(space.classes) >= 2
        assert len(set(space.classes)) == len(space.classes)
        assert not 0 <= space.ignore_index < len(space.classes)
    assert all(side > 0 for side in dataset.native_size)
    assert dataset.licence not in ("", "unknown")
    assert dataset.citation or dataset.licence.startswith("CC0")


@pytest.mark.parametrize("patch", [8, 14, 16])
@pytest.mark.parametrize("name", NAMES)
def test_size_for_an_encoder_is_a_multiple_of_its_patch(name: str, patch: int) -> None:
    dataset = kind(name)
    height, width = dataset.fit_size((16 * patch, 16 * patch), patch)
    assert height % patch == width % patch == 0
    native = dataset.native_size[0] / dataset.native_size[1]
    assert height / width == pytest.approx(native, rel=0.1)


def load(name: str, split: str, limit: int | None = 2) -> Dataset:
    if name != "scenes" and not (REAL_DATA / name).is_dir():
        pytest.skip(f"no {REAL_DATA / name}")
    return load_dataset(name, root=REAL_DATA, split=split, limit=limit)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", NAMES)
def test_samples_keep_the_contract(name: str, split: str) -> None:
    data = load(name, split)
    assert data.name == name
    for place in range(2):
        sample = data[place]
        assert sample.id == data.kept_ids[place]
        assert sample.image.shape == (3, *data.native_size)
        assert sample.image.dtype == torch.float32
        assert 0 <= sample.image.min() < sample.image.max() <= 1
        assert torch.equal((sample.image * 255).round() / 255, sample.image)
        assert sample.targets.keys() == data.labels.keys()
        for task, target in sample.targets.items():
            check_target(task, target, data)


def check_target(task: str, target: torch.Tensor, data: Dataset) -> None:
    space = data.labels[task]
    if task == "depth":
        assert target.dtype == torch.float32
        assert target.shape == data.native_size
        valid = target[target != 0]
        assert len(valid) > target.numel() / 4
        assert space.min_depth < valid.min() < valid.max() < space.max_depth
        return
    assert target.dtype == torch.int64
    assert target.shape == (() if task == "classification" else data.native_size)
    assert set(target.unique().tolist()) <= {*range(len(space.classes)), space.ignore_index}


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_image(name: str) -> None:
    kept = [set(load(name, split, limit=None).kept_ids) for split in SPLITS]
    assert all(kept)
    assert len(set.union(*kept)) == sum(len(k) for k in kept)


@pytest.mark.parametrize("name", NAMES)
def test_digest_is_the_same_twice_and_follows_the_subset(name: str) -> None:
    first = load(name, "test").digest()
    assert load(name, "test").digest() == first
    assert load(name, "test", limit=3).digest() != first
