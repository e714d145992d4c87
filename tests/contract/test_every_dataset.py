"""Every registered dataset keeps the contract, on a small folder in its official layout and on real data found here."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from robustprobe import Dataset, load_dataset
from robustprobe.core.registry import datasets, tasks
from robustprobe.datasets import find_dataset
from robustprobe.datasets.base import SPLITS, Split
from robustprobe.tasks import load_task
from tests.folders import LAYOUTS

pytestmark = pytest.mark.contract

NAMES = datasets.names()
REAL_DATA = Path(__file__).parents[3] / "shared" / "data"
REAL = [name for name in NAMES if (REAL_DATA / name).is_dir()]


class Place(NamedTuple):
    """What to ask for, and where."""

    name: str
    root: Path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for write in LAYOUTS.values():
        write(root)
    return root


@pytest.fixture(params=[*NAMES, *(f"{name} (real)" for name in REAL)])
def position(request: pytest.FixtureRequest, written: Path) -> Place:
    name = str(request.param)
    if name.endswith(" (real)"):
        return Place(name.removesuffix(" (real)"), REAL_DATA)
    own = getattr(datasets.get(name), "by_path", False)
    return Place(f"{name}:{written / name}" if own else name, written)


def name_of(position: Place) -> str:
    return position.name.partition(":")[0]


def load(position: Place, split: Split, limit: int | None = 2) -> Dataset:
    return load_dataset(position.name, root=position.root, split=split, limit=limit)


def splits_of(position: Place) -> tuple[Split, ...]:
    return find_dataset(position.name, root=position.root).splits


def test_every_dataset_has_a_small_folder() -> None:
    assert sorted(LAYOUTS) == sorted(datasets.files)


def test_it_says_what_labels_sizes_and_terms_are(position: Place) -> None:
    dataset = find_dataset(position.name, root=position.root)
    room, _, path = dataset.name.partition(":")
    assert room == name_of(position)
    assert position.name.endswith(path), "a folder's name may be shortened to its last parts"
    assert dataset.labels
    assert set(dataset.labels) <= set(tasks.names())
    for space in dataset.labels.values():
        assert 0 < space.min_depth < space.max_depth
        if not space.classes:
            continue
        assert len(space.classes) >= 2
        assert len(set(space.classes)) == len(space.classes)
        assert not 0 <= space.ignore_index < len(space.classes)
    assert all(side > 0 for side in dataset.native_size)
    assert dataset.licence not in ("", "unknown")
    assert dataset.citation or dataset.licence.startswith("CC0")
    assert dataset.layout
    assert dataset.by_path or dataset.counts or name_of(position) in datasets.plugins
    assert dataset.homepage.startswith("http") or dataset.by_path or dataset.licence.startswith("CC0")


@pytest.mark.parametrize("patch", [8, 14, 16])
def test_size_for_an_encoder_is_a_multiple_of_its_patch(position: Place, patch: int) -> None:
    dataset = find_dataset(position.name, root=position.root)
    height, width = dataset.fit_size((16 * patch, 16 * patch), patch)
    assert height % patch == width % patch == 0
    native = dataset.native_size[0] / dataset.native_size[1]
    assert height / width == pytest.approx(native, rel=0.1)


@pytest.mark.parametrize("split", SPLITS)
def test_samples_keep_the_contract(position: Place, split: Split) -> None:
    if split not in splits_of(position):
        pytest.skip(f"no {split}")
    data = load(position, split)
    for sample, name in zip(data, data.kept_ids, strict=True):
        assert sample.id == name
        assert sample.image.shape == (3, *data.native_size)
        assert sample.image.dtype == torch.float32
        assert 0 <= sample.image.min() < sample.image.max() <= 1
        assert torch.equal((sample.image * 255).round() / 255, sample.image)
        assert sample.targets.keys() == data.labels.keys()
        for task, target in sample.targets.items():
            check_target(task, target, data)


def check_target(name: str, target: torch.Tensor, data: Dataset) -> None:
    task, space = load_task(name, data.labels[name]), data.labels[name]
    assert target.ndim == task.label_axes
    assert task.counted(target).numel() > target.numel() / 4
    assert torch.equal(task.check_values(target), target)
    if space.classes:
        assert target.dtype == torch.int64
        assert set(target.unique().tolist()) <= {*range(len(space.classes)), space.ignore_index}
    else:
        assert target.dtype == torch.float32


def test_labels_and_native_size_are_those_of_every_split(position: Place) -> None:
    found = [find_dataset(position.name, root=position.root, split=split) for split in splits_of(position)]
    assert len({str(dataset.labels) for dataset in found}) == 1
    assert len({dataset.native_size for dataset in found}) == 1


def test_the_group_of_an_image_is_its_class(position: Place) -> None:
    data = load(position, "test")
    if set(data.labels) == {"classification"}:
        for index, sample in zip(data.indices, data, strict=True):
            assert data.stratum(index) == sample.targets["classification"]


def test_splits_share_no_image(position: Place) -> None:
    kept = [set(load(position, split, limit=None).kept_ids) for split in splits_of(position)]
    assert all(kept)
    assert len(set.union(*kept)) == sum(len(k) for k in kept)


def test_digest_is_the_same_twice_and_follows_the_subset(position: Place) -> None:
    first = load(position, "test").digest()
    assert load(position, "test").digest() == first
    assert load(position, "test", limit=1).digest() != first
