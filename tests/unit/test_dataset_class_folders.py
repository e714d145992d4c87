"""imagefolder and ImageNet: folders of classes."""

from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from robustprobe import Dataset, UserError, load_dataset
from robustprobe.datasets import find_dataset
from tests.folders import photo, save, write_classes

pytestmark = pytest.mark.unit


def own(folder: Path, split: str = "test", limit: int | None = None) -> Dataset:
    return load_dataset(f"imagefolder:{folder}", split=split, limit=limit)


def test_classes_are_folders_in_order_and_ids_are_paths(tmp_path: Path) -> None:
    write_classes(tmp_path, {"train": 10, "val": 1, "test": 2}, ("zebra", "Ant", "bee"))
    data = own(tmp_path)
    assert data.labels["classification"].classes == ("Ant", "bee", "zebra")
    assert data.kept_ids[:3] == ["test/Ant/Ant_test_0.JPEG", "test/Ant/Ant_test_1.JPEG", "test/bee/bee_test_0.JPEG"]
    assert [int(sample.targets["classification"]) for sample in data] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"train": 10, "val": 2, "test": 3}, {"train": "train 20", "val": "val 4", "test": "test 6"}),
        ({"train": 10, "val": 2}, {"train": "train 18", "val": "train 2", "test": "val 4"}),
        ({"train": 10, "test": 3}, {"train": "train 18", "val": "train 2", "test": "test 6"}),
    ],
)
def test_missing_splits_are_taken_from_others(tmp_path: Path, found: dict[str, int], expected: dict[str, str]) -> None:
    write_classes(tmp_path, found)
    for split, source in expected.items():
        ids = own(tmp_path, split).kept_ids
        assert f"{ids[0].split('/')[0]} {len(ids)}" == source


def test_listing_opens_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path, {"train": 10})
    monkeypatch.setattr(Image, "open", lambda path: pytest.fail(f"opened {path}"))
    data = own(tmp_path, "train", limit=6)
    assert sorted(data.stratum(index) for index in data.indices) == [0, 0, 0, 1, 1, 1]
    assert data.digest()


def test_subsets_are_balanced_though_classes_are_not(tmp_path: Path) -> None:
    for name, count in (("many", 30), ("few", 3), ("some", 10)):
        for i in range(count):
            save(tmp_path / "test" / name / f"{i}.png", photo(0))
    classes = [int(sample.targets["classification"]) for sample in own(tmp_path, limit=9)]
    assert np.bincount(classes).tolist() == [3, 3, 3]
    assert set(own(tmp_path, limit=5).kept_ids) < set(own(tmp_path, limit=9).kept_ids)


def test_files_that_are_no_images_are_left_out_and_folders_and_links_are_followed(tmp_path: Path) -> None:
    write_classes(tmp_path, {"test": 1})
    cats = tmp_path / "test" / "cat"
    for name in (".hidden.jpg", "notes.txt", "Thumbs.db"):
        (cats / name).write_text("x")
    save(cats / "deep" / "er" / "y.PNG", photo(1))
    elsewhere = save(tmp_path / "elsewhere" / "z.jpg", photo(2)).parent
    (cats / "linked").symlink_to(elsewhere)
    (cats / "deep" / "loop").symlink_to(cats)
    (tmp_path / "test" / "dog" / "w.jpg").symlink_to(elsewhere / "z.jpg")
    (tmp_path / "test" / "extra.jpg").write_text("x")
    data = own(tmp_path)
    assert [name.removeprefix("test/") for name in data.kept_ids] == [
        "cat/cat_test_0.JPEG",
        "cat/deep/er/y.PNG",
        "cat/linked/z.jpg",
        "dog/dog_test_0.JPEG",
        "dog/w.jpg",
    ]
    assert len(list(data)) == 5


def test_torchvision_reads_the_same_after_the_usual_resizing(tmp_path: Path) -> None:
    write_classes(tmp_path / "imagenet", {"train": 5, "val": 4}, ("n02", "n01"))
    transforms = torchvision.transforms
    usual = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    reference = torchvision.datasets.ImageFolder(tmp_path / "imagenet" / "val", usual)
    data = load_dataset("imagenet", root=tmp_path)
    assert len(data) == len(reference) == 8
    for sample, (image, label) in zip(data, reference, strict=True):
        assert np.array_equal((sample.image * 255).round().byte().permute(1, 2, 0).numpy(), np.array(image))
        assert int(sample.targets["classification"]) == label


def test_digest_follows_the_classes_of_train(tmp_path: Path) -> None:
    write_classes(tmp_path, {"train": 5, "test": 2}, ("b", "c"))
    first = own(tmp_path)
    digest = first.digest()
    (tmp_path / "train" / "a").mkdir()
    second = own(tmp_path)
    assert second.kept_ids == first.kept_ids
    assert int(second[0].targets["classification"]) == int(first[0].targets["classification"]) + 1
    assert second.digest() != digest


def test_only_squares_are_cropped(tmp_path: Path) -> None:
    save(tmp_path / "test" / "a" / "x.png", photo(0))
    (tmp_path / "test" / "b").mkdir()
    whole = load_dataset(f"imagefolder:{tmp_path}", size=(20, 30))[0].image
    assert np.array_equal((whole * 255).round().byte().permute(1, 2, 0).numpy(), photo(0))
    assert load_dataset(f"imagefolder:{tmp_path}", size=10)[0].image.shape == (3, 10, 15)
    assert load_dataset(f"imagefolder:{tmp_path}")[0].image.shape == (3, 224, 224)


@pytest.mark.parametrize("place", ["imagenet", "ILSVRC/Data/CLS-LOC", "imagenet/ILSVRC/Data/CLS-LOC"])
def test_imagenet_is_found_where_archives_unpack_to(tmp_path: Path, place: str) -> None:
    write_classes(tmp_path / place, {"train": 10, "val": 2}, ("n01440764", "n01443537"))
    assert len(load_dataset("imagenet", root=tmp_path)) == 4
    assert len(load_dataset("imagenet", root=tmp_path, split="val")) == 2


def test_a_class_that_train_has_not_is_refused(tmp_path: Path) -> None:
    write_classes(tmp_path, {"train": 2})
    write_classes(tmp_path, {"test": 2}, ("cat", "horse"))
    with pytest.raises(UserError, match=r"test/horse is not a class of .*train; expected the same folders"):
        own(tmp_path)


def test_images_without_class_folders_are_refused(tmp_path: Path) -> None:
    write_classes(tmp_path / "imagenet", {"train": 2})
    save(tmp_path / "imagenet" / "val" / "ILSVRC2012_val_00000001.JPEG", photo(0))
    with pytest.raises(UserError, match=r"val has no folders of classes; see https.*moved into one folder"):
        load_dataset("imagenet", root=tmp_path)


def test_missing_folders_are_refused_with_the_layout(tmp_path: Path) -> None:
    assert find_dataset("imagenet", root=tmp_path).native_size == (224, 224)
    for name in ("imagenet", f"imagefolder:{tmp_path}", f"imagefolder:{tmp_path / 'nowhere'}"):
        with pytest.raises(UserError, match=r"no images of .* in .*; .*expected in .*: \{train"):
            load_dataset(name, root=tmp_path)


@pytest.mark.parametrize("name", ["imagefolder", "segfolder", "depthfolder"])
def test_ones_own_folder_must_be_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} reads a folder of yours; name it, as {name}:PATH"):
        load_dataset(name, root=tmp_path)


def test_only_train_cannot_be_reported_on(tmp_path: Path) -> None:
    write_classes(tmp_path, {"train": 4})
    with pytest.raises(UserError, match=r"no .*val; .*expected in"):
        own(tmp_path)


def doubts(folder: Path, split: str = "train") -> list[str]:
    return load_dataset(f"imagefolder:{folder}", split=split).doubts()


@pytest.mark.parametrize("names", [("Train", "Test"), ("training", "validation"), ("cat", "dog")])
def test_folders_of_other_names_are_told_where_splits_are_missing(tmp_path: Path, names: tuple[str, str]) -> None:
    write_classes(tmp_path, dict.fromkeys(names, 1))
    found = ", ".join(sorted(names))
    with pytest.raises(UserError, match=rf"one of val and test may be missing\. Found there: {found}\.$"):
        load_dataset(f"imagefolder:{tmp_path}")


def test_a_split_that_is_spelled_otherwise_is_told(tmp_path: Path) -> None:
    write_classes(tmp_path, {"train": 2, "valid": 1})
    with pytest.raises(UserError, match=r"no .*val; .*Found there: train, valid\.$"):
        load_dataset(f"imagefolder:{tmp_path}")


def test_images_beside_the_folders_of_classes_are_counted(tmp_path: Path) -> None:
    write_classes(tmp_path, {"train": 2, "test": 1})
    assert doubts(tmp_path) == []
    (tmp_path / "train" / "dog" / "dog_train_0.JPEG").rename(tmp_path / "train" / "loose.JPEG")
    (tmp_path / "train" / "notes.txt").touch()
    assert doubts(tmp_path) == ["1 images in train lie beside the folders of classes and are not read"]


def test_classes_below_classes_are_told(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"cat": 1}, ("lynx", "puma"))
    write_classes(tmp_path / "train", {"dog": 1}, ("images",))
    write_classes(tmp_path, {"val": 1, "test": 1})
    shown = "train: 1 classes hold images in several folders each, which are read as one class: cat in lynx, puma"
    assert doubts(tmp_path) == [shown]
    assert doubts(tmp_path, "test") == []


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_link_to_a_folder_above_brings_no_images_of_other_classes(tmp_path: Path, target: str) -> None:
    write_classes(tmp_path, {"train": 2, "test": 1})
    (tmp_path / "test" / "cat" / "again").symlink_to(target)
    assert load_dataset(f"imagefolder:{tmp_path}").kept_ids == [
        "test/cat/cat_test_0.JPEG", "test/dog/dog_test_0.JPEG"
    ]  # fmt: skip


def test_two_folders_of_one_name_in_two_forms_are_refused(tmp_path: Path) -> None:
    write_classes(tmp_path, {"train": 1, "test": 1}, ("caf\u00e9", "cafe\u0301", "bar"))
    with pytest.raises(UserError, match=r"has two folders of the name caf.*NFC, NFD"):
        load_dataset(f"imagefolder:{tmp_path}")


def test_a_file_or_nothing_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"{tmp_path}/file is a file\.$"):
        load_dataset(f"imagefolder:{tmp_path}/file")
    with pytest.raises(UserError, match=rf"There is no {tmp_path}/none\.$"):
        load_dataset(f"imagefolder:{tmp_path}/none")


def test_a_folder_without_its_kind_and_files_that_are_not_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"is a folder; say what it holds: imagefolder:{tmp_path} or segfolder:"):
        load_dataset(str(tmp_path))
    for name in ("a.npy", "b.npy", "c.heic", "d"):
        (tmp_path / "test" / "cat").mkdir(parents=True, exist_ok=True)
        (tmp_path / "test" / "cat" / name).touch()
    with pytest.raises(UserError, match=r"no test images .* Files there: 2 of \.npy, 1 of \.heic, 1 of no ending\."):
        load_dataset(f"imagefolder:{tmp_path}")


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_classes(tmp_path / "photos", {"test": 1})
    by_tilde, whole = (load_dataset(f"imagefolder:{home}/photos") for home in ("~", tmp_path))
    assert (by_tilde.name, by_tilde.digest()) == (whole.name, whole.digest())
