"""What all datasets share: subsets, sizes, checks, batches. Tested on a dataset in memory."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from robustprobe import Dataset, LabelSpace, UserError, load_dataset
from robustprobe.datasets import batches, label_report
from robustprobe.datasets._images import to_tensor
from robustprobe.datasets._splits import held_out
from robustprobe.datasets.base import RawSample, Split

pytestmark = pytest.mark.unit

Label = int | NDArray[Any]


class Memory(Dataset):
    """Ten classes of four images, in the order of the classes."""

    labels: ClassVar = {
        "classification": LabelSpace(classes=tuple("abcdefghij")),
        "segmentation": LabelSpace(classes=("x", "y")),
        "depth": LabelSpace(max_depth=5.0),
    }
    native_size: ClassVar = (4, 6)
    count: ClassVar = 40

    def ids(self) -> list[str]:
        return [f"{self.split}-{i}" for i in range(self.count)]

    def read(self, index: int) -> RawSample:
        return RawSample(Image.new("RGB", (6, 4), (index, 0, 0)), {"classification": index // 4})

    def stratum(self, index: int) -> int:
        return index // 4


class OneLabel(Memory):
    """A dataset whose every image has one given label."""

    task: ClassVar = "classification"
    label: ClassVar[Label] = 0

    def read(self, index: int) -> RawSample:
        return RawSample(Image.new("RGB", (6, 4)), {self.task: self.label})


def memory(kind: type[Dataset] = Memory, limit: int | None = None, split: Split = "test") -> Dataset:
    return kind(Path(), split, None).select(limit)


def read_label(task: str, label: Label) -> torch.Tensor:
    kind = type("OneLabel", (OneLabel,), {"task": task, "label": label})
    return memory(kind)[0].targets[task]


def test_whole_split_is_kept_in_order() -> None:
    for limit in (None, 40, 1000):
        data = memory(limit=limit)
        assert data.kept_ids == [f"test-{i}" for i in range(40)]
        assert len(data) == 40


def test_subsets_are_nested_and_stable_and_in_order() -> None:
    kept = {limit: memory(limit=limit).kept_ids for limit in range(1, 41)}
    for limit in range(1, 40):
        assert len(kept[limit]) == limit
        assert set(kept[limit]) < set(kept[limit + 1])
        assert kept[limit] == sorted(kept[limit], key=lambda i: int(i.split("-")[1]))
    # Pinned: a number is only comparable with another on the same images.
    assert kept[5] == ["test-3", "test-22", "test-28", "test-34", "test-36"]


@pytest.mark.parametrize("limit", [10, 20, 25, 30])
def test_subsets_are_as_balanced_as_they_can_be(limit: int) -> None:
    data = memory(limit=limit)
    labels = [int(data[i].targets["classification"]) for i in range(limit)]
    counts = np.bincount(labels, minlength=10)
    assert counts.max() - counts.min() <= (limit % 10 > 0)


def test_images_of_a_subset_are_those_of_the_whole() -> None:
    whole, part = memory(), memory(limit=7)
    by_id = {sample.id: sample for sample in (whole[i] for i in range(40))}
    for place in range(7):
        sample = part[place]
        assert sample.id == part.kept_ids[place]
        assert torch.equal(sample.image, by_id[sample.id].image)
        assert round(float(sample.image[0, 0, 0]) * 255) == int(sample.id.split("-")[1])


@pytest.mark.parametrize("limit", [0, -3])
def test_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(UserError, match=f"limit {limit} leaves no image; give a limit of 1 or more"):
        memory(limit=limit)


def test_empty_dataset_is_refused() -> None:
    with pytest.raises(UserError, match="has no test images"):
        memory(type("Empty", (Memory,), {"count": 0}))


def test_unknown_split_and_name_are_refused() -> None:
    with pytest.raises(UserError, match="unknown split 'tests'; choose train, val or test"):
        load_dataset("scenes", split="tests")
    with pytest.raises(UserError, match=r"unknown dataset 'scene'\. Did you mean 'scenes'"):
        load_dataset("scene")


def test_place_beyond_the_end_is_an_index_error() -> None:
    with pytest.raises(IndexError):
        memory(limit=3)[3]


@pytest.mark.parametrize(
    ("task", "label", "message"),
    [
        ("classification", 10, "image test-0 has classification label 10; expected 0 to 9. Correct"),
        ("classification", -1, "label -1; expected 0 to 9"),
        ("segmentation", np.array([[0, 2]]), r"segmentation label 2; expected 0 to 1 or 255 \(ignored\)"),
        ("segmentation", np.array([[0, -1]]), "label -1"),
        ("segmentation", np.zeros((4, 6, 3), dtype=int), r"\(4, 6, 3\)"),
        ("depth", np.zeros((4, 6, 3)), r"\(4, 6, 3\)"),
    ],
)
def test_wrong_labels_are_refused_by_image(task: str, label: Label, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_label(task, label)


def test_ignored_pixels_pass() -> None:
    found = read_label("segmentation", np.array([[0, 1, 255]], dtype=np.uint8))
    assert found.dtype == torch.int64
    assert found.tolist() == [[0, 1, 255]]


def test_depth_that_is_not_valid_becomes_0() -> None:
    found = read_label("depth", np.array([[np.nan, np.inf, -1, 0, 0.5, 4.9, 5, 7]]))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([[0, 0, 0, 0, 0.5, 4.9, 0, 0]]))


@pytest.mark.parametrize("error", [OSError("cut short"), ValueError("odd"), KeyError("gone"), SyntaxError("bad PNG")])
def test_image_that_cannot_be_read_is_named(error: Exception) -> None:
    class Broken(Memory):
        def read(self, index: int) -> RawSample:
            raise error

    with pytest.raises(UserError, match=r"image test-0 cannot be read: .*Replace the file"):
        memory(Broken)[0]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "RGB", "1"])
def test_images_of_every_mode_become_rgb(mode: str) -> None:
    class Moded(Memory):
        def read(self, index: int) -> RawSample:
            return RawSample(Image.new(mode, (6, 4)), {})

    sample = memory(Moded)[0]
    assert sample.image.shape == (3, 4, 6)
    assert sample.image.dtype == torch.float32


def gradient_image() -> Image.Image:
    return Image.fromarray(np.arange(8 * 10 * 3, dtype=np.uint8).reshape(8, 10, 3))


def test_image_at_its_own_size_is_untouched() -> None:
    image = gradient_image()
    found = to_tensor(image, (8, 10))
    assert np.array_equal((found * 255).round().byte().permute(1, 2, 0).numpy(), np.array(image))


@pytest.mark.parametrize("size", [(4, 5), (16, 12), (5, 20)])
def test_resized_images_stay_on_the_8_bit_grid(size: tuple[int, int]) -> None:
    found = to_tensor(gradient_image(), size)
    assert found.shape == (3, *size)
    levels = found * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert found.unique().numel() > 10


def test_halving_averages_the_image() -> None:
    image = Image.fromarray(np.repeat(np.array([[[0]], [[200]]], dtype=np.uint8), 3, axis=2).repeat(4, axis=0))
    found = to_tensor(image, (1, 1))
    assert float(found[0, 0, 0]) == pytest.approx(100 / 255, abs=2 / 255)


@pytest.mark.parametrize(
    ("native", "expected"),
    [((32, 32), (64, 64)), ((480, 640), (96, 128)), ((360, 480), (96, 128)), ((4, 400), (8, 1112))],
)
def test_images_are_served_at_the_size_an_encoder_prefers_or_in_their_own_shape(
    native: tuple[int, int], expected: tuple[int, int]
) -> None:
    kind: type[Dataset] = type("Shaped", (Memory,), {"native_size": native})
    assert kind(Path(), "test", None).fit_size((64, 64), 8) == expected


@pytest.mark.parametrize("batch_size", [1, 7, 40, 100])
def test_batches_hold_every_image_once_and_in_order(batch_size: int) -> None:
    data = memory()
    found = list(batches(data, batch_size))
    assert [i for b in found for i in b.ids] == data.kept_ids
    assert [len(b.ids) for b in found[:-1]] == [batch_size] * (len(found) - 1)
    images = torch.cat([b.images for b in found])
    assert torch.equal((images[:, 0, 0, 0] * 255).round(), torch.arange(40.0))
    labels = torch.cat([b.targets["classification"] for b in found])
    assert labels.tolist() == [i // 4 for i in range(40)]


def test_held_out_part_is_a_tenth_the_rest_is_train_and_order_plays_no_part() -> None:
    ids = [f"image {i}" for i in range(200)]
    train, val = held_out(ids, "train"), held_out(ids, "val")
    assert sorted(train + val) == list(range(200))
    assert len(val) == 20
    backwards = ids[::-1]
    assert {backwards[i] for i in held_out(backwards, "val")} == {ids[i] for i in val}


def test_digest_changes_with_what_was_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one")

    class Filed(Memory):
        def files(self) -> list[Path]:
            return [file]

    def digest(split: Split = "test", size: tuple[int, int] | None = None, limit: int | None = None) -> str:
        return Filed(tmp_path, split, size).select(limit).digest()

    digests = [digest(), digest("val"), digest(size=(8, 8)), digest(limit=3)]
    file.write_bytes(b"three")
    digests.append(digest())
    assert len(set(digests)) == 5
    assert digest() == digests[-1]


def test_digest_does_not_depend_on_where_the_data_lie(tmp_path: Path) -> None:
    class Filed(Memory):
        def files(self) -> list[Path]:
            return [Path(self.root or "") / "file"]

    def digest(root: Path) -> str:
        root.mkdir()
        (root / "file").write_bytes(b"one")
        return Filed(root, "test", None).select(None).digest()

    assert digest(tmp_path / "a") == digest(tmp_path / "b")


class Varied(Memory):
    """Images of three sizes, and maps as large as they are."""

    sizes: ClassVar = ((20, 30), (20, 30), (40, 20), (40, 20), (40, 20), (16, 16))
    count: ClassVar = 6

    def read(self, index: int) -> RawSample:
        height, width = self.sizes[index]
        mask = np.zeros((height, width), np.uint8)
        return RawSample(Image.new("RGB", (width, height)), {"segmentation": mask})


def test_shorter_side_is_resized_and_the_shape_kept() -> None:
    data = Varied(Path(), "test", 10).select(None)
    assert [tuple(sample.image.shape[1:]) for sample in data] == [(10, 15)] * 2 + [(20, 10)] * 3 + [(10, 10)]


def test_batches_end_where_the_size_changes_and_lose_no_image() -> None:
    data = Varied(Path(), "test", 10).select(None)
    found = list(batches(data, 5))
    assert [len(batch.ids) for batch in found] == [2, 3, 1]
    assert [name for batch in found for name in batch.ids] == data.kept_ids
    assert found[1].targets["segmentation"].shape == (3, 40, 20)


def test_labels_of_other_sizes_than_the_image_part_batches_too() -> None:
    data = Varied(Path(), "test", (8, 8)).select(None)
    assert [batch.targets["segmentation"].shape for batch in batches(data, 4)] == [
        (2, 20, 30),
        (2, 40, 20),
        (1, 40, 20),
        (1, 16, 16),
    ]


PIXELS = np.zeros((4, 6, 3), np.uint8)


@pytest.mark.parametrize(("raw", "message"), [
    ((Image.fromarray(PIXELS), 1), r"`read` gave a tuple; expected RawSample\(image, labels by task\)"),
    (RawSample(PIXELS, {}), "`read` gave an image that is a ndarray; expected one of Pillow"),  # type: ignore[arg-type]
    (RawSample(torch.rand(3, 4, 6), {}), "`read` gave an image that is a Tensor"),  # type: ignore[arg-type]
    (RawSample(Image.fromarray(PIXELS), {"boxes": 1}), "`read` gave labels for boxes, which .* lacks: classification"),
])  # fmt: skip
def test_what_a_dataset_reads_is_checked(raw: Any, message: str) -> None:
    data = memory(type("Wrong", (Memory,), {"read": lambda self, index: raw}))
    with pytest.raises(UserError, match=f"image test-0: {message}"):
        data[0]


def test_a_task_without_a_label_is_named() -> None:
    with pytest.raises(UserError, match="image test-0 has no depth label"):
        label_report(memory(split="test"), memory(split="test"), ["depth"])


def test_images_that_are_listed_twice_are_an_error() -> None:
    twice = type("Twice", (Memory,), {"ids": lambda self: ["a", "b", "a", "a"]})
    with pytest.raises(UserError, match=r"2 images are listed more than once\. Correct the list"):
        memory(twice)
