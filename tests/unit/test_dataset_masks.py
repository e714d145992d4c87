"""Photographs with masks: every official convention, and what goes wrong with files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from robustprobe import UserError, load_dataset
from robustprobe.datasets._pairs import look_up
from robustprobe.datasets.ade20k import CLASSES as ADE20K_CLASSES
from robustprobe.datasets.cityscapes import TRAIN_IDS
from tests.folders import (
    SIZES,
    Array,
    mask,
    noise,
    palette,
    photo,
    save,
    turned,
    voc_mask,
    write_ade20k,
    write_camvid,
    write_cityscapes,
    write_segfolder,
    write_voc2012,
)

pytestmark = pytest.mark.unit


def masks_of(name: str, root: Path, split: str = "test") -> list[Array]:
    return [
        sample.targets["segmentation"].numpy() for sample in load_dataset(name, root=root, split=split, size=(8, 8))
    ]


def ids_of(name: str, root: Path) -> dict[str, list[str]]:
    return {split: load_dataset(name, root=root, split=split).kept_ids for split in ("train", "val", "test")}


# ADE20k


@pytest.mark.parametrize("place", ["ade20k", "ADEChallengeData2016", "ade20k/ADEChallengeData2016"])
def test_ade20k_ignores_0_and_counts_classes_from_1(tmp_path: Path, place: str) -> None:
    write_ade20k(tmp_path / place)
    found = masks_of("ade20k", tmp_path)
    assert [m.shape for m in found] == list(SIZES)
    for i, labels in enumerate(found):
        stored = mask(i, 151).astype(int)
        assert (stored == 0).any()
        assert np.array_equal(labels, np.where(stored == 0, 255, stored - 1))
    assert load_dataset("ade20k", root=tmp_path).kept_ids == [f"ADE_val_{i:08d}" for i in range(1, 5)]


def test_ade20k_splits_are_official_val_and_a_tenth_of_training(tmp_path: Path) -> None:
    write_ade20k(tmp_path / "ade20k", train=20)
    ids = ids_of("ade20k", tmp_path)
    assert [len(ids[split]) for split in ("train", "val", "test")] == [18, 2, 4]
    assert set(ids["train"]) | set(ids["val"]) == {f"ADE_train_{i:08d}" for i in range(1, 21)}


def test_ade20k_names_are_the_150_of_the_challenge() -> None:
    assert len(ADE20K_CLASSES) == len(set(ADE20K_CLASSES)) == 150
    known = {0: "wall", 12: "person", 20: "car", 44: "chest of drawers", 102: "van", 125: "pot", 149: "flag"}
    assert {place: ADE20K_CLASSES[place] for place in known} == known


# Cityscapes


def test_cityscapes_label_ids_become_the_official_train_ids(tmp_path: Path) -> None:
    official = [c.train_id for c in torchvision.datasets.Cityscapes.classes if c.id >= 0]
    assert official == TRAIN_IDS
    write_cityscapes(tmp_path / "cityscapes")
    found = masks_of("cityscapes", tmp_path)
    data = load_dataset("cityscapes", root=tmp_path)
    # By city, as folders are listed.
    assert [name.split("_")[0] for name in data.kept_ids] == ["aachen", "aachen", "ulm", "ulm"]
    for i, labels in zip((0, 2, 1, 3), found, strict=True):
        assert np.array_equal(labels, np.array(official)[mask(i, 34)])
    names = {c.train_id: c.name for c in torchvision.datasets.Cityscapes.classes if 0 <= c.train_id < 255}
    assert data.labels["segmentation"].classes == tuple(names[i] for i in range(19))


def test_torchvision_lists_the_same_cityscapes(tmp_path: Path) -> None:
    write_cityscapes(tmp_path / "cityscapes")
    reference = torchvision.datasets.Cityscapes(tmp_path / "cityscapes", split="val", target_type="semantic")
    expected = {Path(path).name.removesuffix("_leftImg8bit.png") for path in reference.images}
    assert set(load_dataset("cityscapes", root=tmp_path).kept_ids) == expected


def test_cityscapes_masks_of_train_ids_are_taken_where_there_are_no_others(tmp_path: Path) -> None:
    write_cityscapes(tmp_path / "cityscapes", labels="labelTrainIds")
    for i, labels in zip((0, 2, 1, 3), masks_of("cityscapes", tmp_path), strict=True):
        assert np.array_equal(labels, mask(i, 19))
    write_cityscapes(tmp_path / "cityscapes")
    assert np.array_equal(masks_of("cityscapes", tmp_path)[0], np.array(TRAIN_IDS)[mask(0, 34)])


# PASCAL VOC


@pytest.mark.parametrize("place", ["voc2012", "voc2012/VOCdevkit/VOC2012", "VOCdevkit/VOC2012"])
def test_voc2012_masks_are_indices_of_the_palette(tmp_path: Path, place: str) -> None:
    write_voc2012(tmp_path / place)
    for i, labels in enumerate(masks_of("voc2012", tmp_path)):
        assert {0, 255} < set(labels.flatten().tolist())
        assert np.array_equal(labels, voc_mask(i))
    ids = ids_of("voc2012", tmp_path)
    assert (len(ids["train"]), len(ids["val"])) == (11, 1)
    assert ids["test"] == [f"2008_{i:06d}" for i in range(4)]


def test_torchvision_reads_the_same_voc2012(tmp_path: Path) -> None:
    write_voc2012(tmp_path / "VOCdevkit" / "VOC2012")
    reference = torchvision.datasets.VOCSegmentation(tmp_path, year="2012", image_set="val")
    for sample, (image, label) in zip(load_dataset("voc2012", root=tmp_path, size=16), reference, strict=True):
        assert np.array_equal(sample.targets["segmentation"].numpy(), np.array(label))
        assert sample.image.shape[1:] == (
            round(image.height * 16 / min(image.size)),
            round(image.width * 16 / min(image.size)),
        )


def test_voc2012_train_is_augmented_where_the_list_and_the_masks_are_there(tmp_path: Path) -> None:
    write_voc2012(tmp_path / "voc2012", extra=8)
    data = load_dataset("voc2012", root=tmp_path, split="train", size=(8, 8))
    assert len(data) == 18
    assert any(name.startswith("2009") for name in data.kept_ids)
    assert data.remarks() == ["train is trainaug.txt with SegmentationClassAug (SBD), not the official train.txt"]
    for sample in data:
        assert np.array_equal(
            sample.targets["segmentation"].numpy(), voc_mask(int(sample.id[-6:]) + 12 * (sample.id[3] == "9"))
        )
    test = load_dataset("voc2012", root=tmp_path)
    assert (len(test), test.remarks()) == (4, [])
    augmented = tmp_path / "voc2012" / "SegmentationClassAug"
    augmented.rename(augmented.with_name("elsewhere"))
    assert len(load_dataset("voc2012", root=tmp_path, split="train")) == 11


# One's own


def test_a_value_without_a_class_is_named_with_both_ways_out(tmp_path: Path) -> None:
    write_segfolder(tmp_path, {"train": 1, "test": 1}, classes=3)
    (tmp_path / "classes.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match=r"holds the value 2; expected 0 to 1, or 255 \(ignored\)") as caught:
        masks_of(f"segfolder:{tmp_path}", tmp_path)
    assert "Correct the mask: 255 where no class is meant" in str(caught.value)
    assert "classes.txt" in str(caught.value)


def test_segfolder_pairs_files_by_name_below_folders_too(tmp_path: Path) -> None:
    write_segfolder(tmp_path, {"train": 10, "val": 2, "test": 3})
    save(tmp_path / "images" / "test" / "street" / "a.png", photo(1))
    save(tmp_path / "masks" / "test" / "street" / "a.png", palette(mask(1, 3)))
    data = load_dataset(f"segfolder:{tmp_path}")
    assert data.kept_ids == ["test/0", "test/1", "test/2", "test/street/a"]
    assert np.array_equal(data[3].targets["segmentation"].numpy(), mask(1, 3))
    assert data.labels["segmentation"].classes == ("class 0", "class 1", "class 2")
    assert data.native_size == SIZES[0]


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "I;16"])
def test_photographs_of_every_mode_go_with_masks(tmp_path: Path, mode: str) -> None:
    write_segfolder(tmp_path, {"train": 10, "test": 1})
    image = (
        Image.fromarray(noise(0, *SIZES[0]).astype(np.uint16) * 257)
        if mode == "I;16"
        else Image.fromarray(photo(0)).convert(mode)
    )
    (tmp_path / "images" / "test" / "0.jpg").unlink()
    save(tmp_path / "images" / "test" / ("0.tif" if mode == "CMYK" else "0.png"), image)
    sample = load_dataset(f"segfolder:{tmp_path}", size=SIZES[0])[0]
    expected = np.stack([noise(0, *SIZES[0])] * 3, axis=2) if mode == "I;16" else np.array(image.convert("RGB"))
    assert np.array_equal((sample.image * 255).round().byte().permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("mask_is_upright", [True, False])
def test_a_turned_photograph_follows_its_mask(tmp_path: Path, mask_is_upright: bool) -> None:
    write_segfolder(tmp_path, {"train": 10, "test": 1})
    upright = photo(0)
    stored = np.ascontiguousarray(np.rot90(upright))
    (tmp_path / "images" / "test" / "0.jpg").unlink()
    save(tmp_path / "images" / "test" / "0.png", stored, exif=turned(6))
    seen = upright if mask_is_upright else stored
    save(tmp_path / "masks" / "test" / "0.png", mask(0, 3) if mask_is_upright else np.ascontiguousarray(mask(0, 3).T))
    sample = load_dataset(f"segfolder:{tmp_path}", size=seen.shape[:2])[0]
    assert np.array_equal((sample.image * 255).round().byte().permute(1, 2, 0).numpy(), seen)


@pytest.mark.parametrize("text", ["", "one\n", "a\nb\na\n"])
def test_class_names_must_be_some_and_different(tmp_path: Path, text: str) -> None:
    (write_segfolder(tmp_path, {"train": 10, "test": 1}) / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=r"classes\.txt names . classes.*expected 2 to 255 different names"):
        list(load_dataset(f"segfolder:{tmp_path}"))


def test_digest_follows_the_class_names(tmp_path: Path) -> None:
    write_segfolder(tmp_path, {"train": 10, "test": 1})
    first = load_dataset(f"segfolder:{tmp_path}").digest()
    (tmp_path / "classes.txt").write_text("class 0\nclass 2\nclass 1\n")
    assert load_dataset(f"segfolder:{tmp_path}").digest() != first


def test_label_of_the_wrong_class_file_is_named(tmp_path: Path) -> None:
    write_segfolder(tmp_path, {"train": 10, "test": 2}, classes=5)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(UserError, match=r"masks/test/0\.png holds the value [34]; expected 0 to 2, or 255"):
        list(load_dataset(f"segfolder:{tmp_path}"))


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    write_segfolder(tmp_path, {"train": 10, "test": 1})
    save(tmp_path / "images" / "test" / "0.png", photo(0))
    with pytest.raises(UserError, match=r"has both 0\.jpg and 0\.png"):
        load_dataset(f"segfolder:{tmp_path}")


# All of them


@given(
    values=st.lists(st.integers(0, 255), min_size=1, max_size=255, unique=True),
    stored=st.lists(st.integers(-3, 300), min_size=1, max_size=40),
)
def test_values_are_looked_up_or_refused(values: list[int], stored: list[int]) -> None:
    wrong = [value for value in stored if value != 255 and not 0 <= value < len(values)]
    array = np.array([stored], np.int32)
    if wrong:
        with pytest.raises(UserError, match=f"m holds the value {wrong[0]}; expected 0 to {len(values) - 1}"):
            look_up(values, array, Path("m"))
    else:
        found = look_up(values, array, Path("m"))
        assert found.tolist() == [[values[v] if v < len(values) else 255 for v in stored]]


class Written:
    """A folder, its first test image and mask, and what to ask for."""

    def __init__(self, root: Path, name: str) -> None:
        self.name, self.root = name, root
        if name == "ade20k":
            folder = write_ade20k(root / name)
            self.image = folder / "images/validation/ADE_val_00000001.jpg"
            self.mask = folder / "annotations/validation/ADE_val_00000001.png"
        elif name == "cityscapes":
            folder = write_cityscapes(root / name)
            frame = "aachen/aachen_val_000000_000019"
            self.image = folder / f"leftImg8bit/val/{frame}_leftImg8bit.png"
            self.mask = folder / f"gtFine/val/{frame}_gtFine_labelIds.png"
        elif name == "voc2012":
            folder = write_voc2012(root / name)
            self.image, self.mask = folder / "JPEGImages/2008_000000.jpg", folder / "SegmentationClass/2008_000000.png"
        elif name == "camvid":
            folder = write_camvid(root / name, {"train": 10, "test": 2})
            self.image, self.mask = folder / "test/test_0.png", folder / "testannot/test_0.png"
        else:
            folder = write_segfolder(root / name, {"train": 10, "test": 2})
            self.image, self.mask = folder / "images/test/0.jpg", folder / "masks/test/0.png"
            self.name = f"segfolder:{folder}"


@pytest.fixture(params=["ade20k", "cityscapes", "voc2012", "camvid", "segfolder"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Written:
    return Written(tmp_path, str(request.param))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def in_colours(it: Written) -> None:
    with Image.open(it.mask) as stored:
        colours = stored.convert("RGB")
    colours.save(it.mask)


def other_size(it: Written) -> None:
    save(it.mask, np.zeros((5, 7), np.uint8))


def out_of_range(it: Written) -> None:
    with Image.open(it.image) as image:
        save(it.mask, np.full((image.height, image.width), 254, np.uint8))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda it: it.mask.unlink(), r"{mask}"),
        (lambda it: cut_short(it.mask), r"image .* cannot be read: {mask}: .*Replace the file"),
        (lambda it: cut_short(it.image), r"image .* cannot be read: {image}: .*Replace the file"),
        (lambda it: it.image.write_bytes(b""), r"image .* cannot be read: {image}"),
        (in_colours, r"{mask} is an image of mode RGB; expected class indices"),
        (other_size, r"{image} is \d+ x \d+ and its label {mask} is 5 x 7; expected the same size"),
        (out_of_range, r"{mask} holds the value 254; expected 0 to \d+, or 255"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name(
    written: Written, spoil: Callable[[Written], object], message: str
) -> None:
    spoil(written)
    with pytest.raises(UserError, match=message.format(mask=written.mask, image=written.image)):
        list(load_dataset(written.name, root=written.root))


def test_a_missing_mask_is_found_before_any_work(written: Written) -> None:
    written.mask.unlink()
    with pytest.raises(UserError, match=written.mask.stem):
        load_dataset(written.name, root=written.root).digest()


def test_listing_opens_nothing(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_dataset(written.name, root=written.root, size=(8, 8))
    monkeypatch.setattr(Image, "open", lambda path: pytest.fail(f"opened {path}"))
    if not data.by_path:
        data = load_dataset(written.name, root=written.root, limit=1)
    assert data.digest()


@pytest.mark.parametrize("name", ["ade20k", "cityscapes", "voc2012"])
def test_missing_folders_are_refused_with_the_layout(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"no {tmp_path}/{name}; expected .*\{{.*val.*--data-root"):
        load_dataset(name, root=tmp_path)
