"""Labels that make no sense are said: in the plan, beside the number, and in `data check`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import robustprobe as rp
from robustprobe.core.errors import UserError
from robustprobe.datasets import check_dataset, label_report, load_dataset
from robustprobe.results.store import Store
from tests.folders import noise, save, write_classes, write_depthfolder, write_segfolder, write_shards

pytestmark = pytest.mark.unit


def said(spec: str, task: str, limit: int | None = None) -> list[str]:
    train, reported = (load_dataset(spec, split=split, limit=n) for split, n in (("train", None), ("test", limit)))
    return [doubt.text for doubt in label_report(train, reported, [task]).doubts]


def apart(folder: Path, split: str = "test") -> None:
    """Give the images of a split other pixels than those of train."""
    for number, path in enumerate(sorted(folder.rglob(f"{split}/**/*.*"))):
        if not {"masks", "depth"} & set(path.parts):
            save(path, noise(5000 + number, *np.array(Image.open(path)).shape))


def masks(folder: Path, *values: int) -> str:
    write_segfolder(folder, {"train": 6, "test": 3}, 2)
    apart(folder)
    for number, path in enumerate(sorted((folder / "masks").rglob("*.png"))):
        shape = np.array(Image.open(path)).shape
        save(path, np.array(values, np.uint8)[noise(number, *shape) % len(values)])
    return f"segfolder:{folder}"


TASKS = {"imagefolder": "classification", "segfolder": "segmentation", "depthfolder": "depth"}


def write(folder: Path, kind: str) -> str:
    if kind == "imagefolder":
        write_classes(folder, {"train": 8, "val": 1, "test": 2})
    else:
        write_own = write_segfolder if kind == "segfolder" else write_depthfolder
        write_own(folder, {"train": 8, "val": 1, "test": 4})
    return f"{kind}:{folder}"


def test_sound_labels_are_not_doubted(tmp_path: Path) -> None:
    assert said(masks(tmp_path / "a", 0, 1), "segmentation") == []
    write_depthfolder(tmp_path / "b", {"train": 6, "test": 3})
    apart(tmp_path / "b")
    assert said(f"depthfolder:{tmp_path / 'b'}", "depth") == []
    write_classes(tmp_path / "c", {"train": 6, "test": 3})
    apart(tmp_path / "c")
    assert said(f"imagefolder:{tmp_path / 'c'}", "classification") == []


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("1 sky\n2 road", "classes.txt numbers its lines 1, 2 ..., and the first line is class 0"),
        ("7: sky\n8: road", "classes.txt numbers its lines 7, 8 ..."),
        ("1\n0", "classes.txt numbers its lines 1, 0 ..."),
        ("# names\nsky", "the line '# names' of classes.txt is read as a class"),
        ("0 sky\n1 road", ""),
        ("00\n01", ""),
        ("3d printer\n2d plotter", ""),
        ("1 sky\nroad", ""),
    ],
)
def test_lines_of_classes_that_mean_another_class_are_named(tmp_path: Path, lines: str, said: str) -> None:
    spec = masks(tmp_path, 0, 1)
    (tmp_path / "classes.txt").write_text(lines)
    found = [text for text in said_of(spec) if "classes.txt" in text]
    assert [text.startswith(said) for text in found] == [True] * bool(said), found


def said_of(spec: str) -> list[str]:
    return said(spec, "segmentation")


def test_masks_of_0_and_255_are_named(tmp_path: Path) -> None:
    found = said(masks(tmp_path, 0, 255), "segmentation")
    assert any(text.startswith("train: every labelled pixel is class 0, and") and "255" in text for text in found)
    assert "test: 1 classes have no segmentation label: class 1" in found


def test_fit_probe_warns_as_a_run_does(tmp_path: Path) -> None:
    spec = masks(tmp_path, 0, 255)
    with pytest.warns(UserWarning, match=f"{spec}, segmentation: train: every labelled pixel is class 0") as said:
        rp.fit_probe("bundled:scenes", spec, epochs=1)
    assert {warning.filename for warning in said if "every labelled" in str(warning.message)} == {__file__}


def test_a_mask_class_that_only_test_has_is_named(tmp_path: Path) -> None:
    spec = masks(tmp_path, 0, 1)
    for path in (tmp_path / "masks" / "train").iterdir():
        save(path, np.zeros_like(np.array(Image.open(path))))
    assert "train: 1 classes have no segmentation label: class 1" in said(spec, "segmentation")


def test_a_class_without_train_images_is_named_whatever_the_limit(tmp_path: Path) -> None:
    write_classes(tmp_path, {"train": 6, "test": 3}, ("ant", "bee", "cat"))
    apart(tmp_path)
    for path in (tmp_path / "train" / "bee").iterdir():
        path.unlink()
    spec = f"imagefolder:{tmp_path}"
    assert said(spec, "classification", limit=2) == ["train: 1 classes have no classification label: bee"]


def test_a_class_without_test_images_is_named_where_all_are_reported_on(tmp_path: Path) -> None:
    write_shards(tmp_path, {"train": 8, "test": 1})
    spec = f"webdataset:{tmp_path}"
    assert said(spec, "classification") == ["test: 1 classes have no classification label: dog"]


@pytest.mark.parametrize("kind", TASKS)
def test_a_split_of_another_name_is_named(tmp_path: Path, kind: str) -> None:
    spec, task = write(tmp_path, kind), TASKS[kind]
    images = tmp_path / "images" if kind != "imagefolder" else tmp_path
    assert not [text for text in said(spec, task) if "call it" in text]
    (images / "val").rename(images / "Valid")
    (images / "extra").mkdir()
    assert [text for text in said(spec, task) if "call it" in text] == ["the folder Valid is not read; call it val"]


def test_palettes_that_differ_are_named(tmp_path: Path) -> None:
    spec = masks(tmp_path, 0, 1)
    paths = sorted((tmp_path / "masks").rglob("*.png"))

    def write_palettes(*colours: list[int]) -> list[str]:
        for number, path in enumerate(paths):
            image = Image.fromarray(np.array(Image.open(path)).astype(np.uint8), "P")
            image.putpalette(colours[number % len(colours)])
            image.save(path)
        return [text for text in said(spec, "segmentation") if "palette" in text]

    found = write_palettes([0, 0, 0, 255, 0, 0], [255, 0, 0, 0, 0, 0])
    assert "the palettes of masks differ: 0 is the colour (" in found[0]
    # An index that does not occur has no colour that counts.
    assert write_palettes([0, 0, 0, 255, 0, 0, 9, 9, 9], [0, 0, 0, 255, 0, 0, 7, 7, 7]) == []


def test_files_that_are_not_read_are_named(tmp_path: Path) -> None:
    write_classes(tmp_path, {"train": 6, "test": 3})
    apart(tmp_path)
    (tmp_path / "train" / "cat" / "x.heic").touch()
    spec = f"imagefolder:{tmp_path}"
    assert said(spec, "classification") == ["1 of .heic in train are not read; convert them to PNG"]
    assert "1 of .heic in train are not read; convert them to PNG" in check_dataset(spec, Path()).notes


def depths(folder: Path, scale: float) -> str:
    for split, count in (("train", 6), ("test", 2)):
        for number in range(count):
            save(folder / "images" / split / f"{number}.png", noise(number, 24, 32, 3))
            metres = np.linspace(1, 5, 24 * 32, dtype=np.float32).reshape(24, 32)
            save(folder / "depth" / split / f"{number}.png", stored(metres, scale))
    return f"depthfolder:{folder}"


def stored(metres: NDArray[np.float32], scale: float) -> NDArray[np.uint16]:
    return (metres * scale).astype(np.uint16)


@pytest.mark.parametrize("scale", [256, 100, 10])
def test_depths_in_another_unit_are_doubted(tmp_path: Path, scale: float) -> None:
    found = said(depths(tmp_path, scale), "depth")
    assert any("where up to 10 m is expected: check the unit" in text for text in found)


def test_depths_of_which_none_is_below_the_cap_are_an_error(tmp_path: Path) -> None:
    spec = depths(tmp_path, 12_000)
    with pytest.raises(UserError, match=r"none of 5 depth labels of train counts: no pixel .*max_depth"):
        said(spec, "depth")
    with pytest.raises(UserError, match="none of 5 depth labels of train counts"):
        rp.evaluate("bundled:photos", [spec], ["clean"])


def test_the_doubt_is_warned_about_and_kept_with_the_number(tmp_path: Path) -> None:
    spec = masks(tmp_path / "data", 0, 255)
    with pytest.warns(UserWarning, match=r"segmentation: train: every labelled pixel is class 0"):
        rp.evaluate("bundled:photos", [spec], ["clean"], out=tmp_path / "out", sanity_images=0, head={"epochs": 1})
    [record] = Store(tmp_path / "out").records()
    failed = [check for check in record.checks if not check.passed]
    assert {check.name for check in failed} == {"plausible labels"}
    assert any("every labelled pixel is class 0" in check.meaning for check in failed)


def test_data_check_tells_the_commonest_class(tmp_path: Path) -> None:
    spec = masks(tmp_path, 0, 0, 0, 1)
    text = str(check_dataset(spec, Path()).splits[0].labels["segmentation"])
    assert text.startswith("2 of 2 classes, most often class 0 (7")
    assert text.endswith("%), 0.0% ignored")


def facts(spec: str, task: str) -> str:
    data = [load_dataset(spec, split=split, size=(16, 16)) for split in ("train", "test")]
    return label_report(data[0], data[1], [task]).facts[task]


def test_a_plan_tells_what_a_sample_of_masks_holds(tmp_path: Path) -> None:
    write_segfolder(tmp_path, {"train": 40, "test": 4, "val": 1}, 3)
    for path in sorted((tmp_path / "masks").rglob("*.png")):
        values = [1, 1, 1, 2, 255, 255, 255, 255] if "train" in path.parts else [0, 1, 1, 1]
        save(path, np.array(values, np.uint8)[noise(1, *np.array(Image.open(path)).shape) % len(values)])
    train, test = facts(f"segfolder:{tmp_path}", "segmentation").split("; ")
    assert train.startswith("train (20 of 40 images) 2 of 3 classes (without class 0), most often class 1 (7")
    assert 45 < float(train.split("%), ")[1].removesuffix("% ignored")) < 55
    assert test.startswith("test (4 images) 2 of 3 classes (without class 2), most often class 1 (7")
    assert test.endswith(" 0.0% ignored")


def test_a_plan_tells_the_range_of_depth(tmp_path: Path) -> None:
    spec = depths(tmp_path, 500)
    assert (
        facts(spec, "depth")
        == "train (5 images) 0.50 to 2.50 m, 100% valid; test (2 images) 0.50 to 2.50 m, 100% valid"
    )


def test_classes_that_are_known_unread_are_told_of_all_images(tmp_path: Path) -> None:
    write_classes(tmp_path, {"train": 30, "test": 3}, ("ant", "bee", "cat"))
    (tmp_path / "test" / "bee" / "bee_test_0.JPEG").unlink()
    assert facts(f"imagefolder:{tmp_path}", "classification") == (
        "train (81 images) 3 of 3 classes, most often ant (35%); test (8 images) 3 of 3 classes, most often ant (38%)"
    )


def test_files_that_are_not_read_are_named_beside_maps_too(tmp_path: Path) -> None:
    spec = masks(tmp_path, 0, 1)
    (tmp_path / "images" / "train" / "x.HEIC").touch()
    (tmp_path / "masks" / "test" / "y.exr").touch()
    assert said(spec, "segmentation") == [
        "1 of .heic in train are not read; convert them to PNG",
        "1 of .exr in test are not read; convert them to PNG",
    ]


def with_orientation(path: Path, orientation: int, size: tuple[int, int]) -> None:
    image = Image.open(path).resize((size[1], size[0]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


@pytest.mark.parametrize(("orientation", "size", "unclear"), [
    (6, (40, 40), True), (3, (40, 56), True), (2, (40, 56), True),
    (1, (40, 40), False), (6, (56, 40), False), (8, (40, 56), False),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["segfolder", "depthfolder"])
def test_an_orientation_that_a_map_may_not_share_is_named(
    tmp_path: Path, kind: str, orientation: int, size: tuple[int, int], unclear: bool
) -> None:
    write = write_segfolder if kind == "segfolder" else write_depthfolder
    write(tmp_path, {"train": 6, "test": 3})
    maps, task = ("masks", "segmentation") if kind == "segfolder" else ("depth", "depth")
    with_orientation(tmp_path / "images" / "test" / "0.jpg", orientation, size)
    path = tmp_path / maps / "test" / "0.png"
    Image.open(path).resize((size[1], size[0]), Image.Resampling.NEAREST).save(path)
    found = [text for text in said(f"{kind}:{tmp_path}", task) if "EXIF orientation" in text]
    assert [text.partition(" have")[0] for text in found] == ["test: 1 of 3 sampled images"] * unclear


@pytest.mark.parametrize("root", [None, 3])
def test_a_root_that_is_no_path_is_one_clear_error(root: Any) -> None:
    for call in (rp.evaluate, rp.fit_probe):
        with pytest.raises(UserError, match=f"root is {root}; give the folder that holds the datasets, as a path"):
            call("bundled:scenes", "scenes", root=root)


@pytest.mark.parametrize(("scale", "settings", "doubted"), [
    (1000, None, False), (256, None, True), (256, {"scale": 256, "max_depth": 80}, False), (256, {"scale": 256}, True),
])  # fmt: skip
def test_depths_beyond_a_cap_that_nobody_chose_are_named(
    tmp_path: Path, scale: int, settings: dict[str, float] | None, doubted: bool
) -> None:
    write_depthfolder(tmp_path, {"train": 4, "test": 2})
    farthest = 9.5 if scale == 1000 else 60.0
    for path in (tmp_path / "depth").rglob("*.png"):
        metres = np.linspace(1, farthest, Image.open(path).width, dtype=np.float32)
        save(path, (np.tile(metres, (Image.open(path).height, 1)) * scale).astype(np.uint16))
    if settings:
        (tmp_path / "depth.json").write_text(json.dumps(settings))
    found = [text for text in said(f"depthfolder:{tmp_path}", "depth") if "beyond 10 m" in text]
    assert len(found) == 2 * doubted
    assert all("check the unit (scale), or set max_depth in depth.json" in text for text in found)


def copied(spec: str, task: str) -> list[str]:
    return [text for text in said(spec, task) if "byte for byte" in text]


@pytest.mark.parametrize("kind", TASKS)
def test_images_of_test_that_are_in_train_too_are_counted(tmp_path: Path, kind: str) -> None:
    spec, task = write(tmp_path, kind), TASKS[kind]
    assert copied(spec, task) == ["test: 4 of 4 images are in train too, byte for byte"]
    apart(tmp_path)
    assert copied(spec, task) == []
    images = tmp_path / "images" if kind != "imagefolder" else tmp_path
    source, target = (sorted((images / split).rglob("*.*"))[0] for split in ("train", "test"))
    source.write_bytes(target.read_bytes())
    assert copied(spec, task) == ["test: 1 of 4 images are in train too, byte for byte"]
    if kind == "imagefolder":
        assert "test: 1 of 4 images are in train too, byte for byte" in check_dataset(spec, Path(), sample=None).notes


@pytest.mark.parametrize("kind", TASKS)
def test_a_held_out_split_of_copies_is_told(tmp_path: Path, kind: str) -> None:
    spec, task = write(tmp_path, kind), TASKS[kind]
    apart(tmp_path)

    def told() -> list[str]:
        train, val, test = (load_dataset(spec, split=split) for split in ("train", "val", "test"))
        found = [one.text for one in label_report(train, test, [task], val).doubts if "byte for byte" in one.text]
        # As `fit_probe` asks, which reports on nothing.
        alone = [one.text for one in label_report(train, train, [task], val).doubts if "byte for byte" in one.text]
        assert alone == [text for text in found if text.startswith("val")]
        return found

    for number, path in enumerate(sorted(tmp_path.rglob("val/**/*.*"))):
        if not {"masks", "depth"} & set(path.parts):
            save(path, noise(9000 + number, *np.array(Image.open(path)).shape))
    assert told() == []
    images = tmp_path / "images" if kind != "imagefolder" else tmp_path
    source = {split: sorted((images / split).rglob("*.*"))[0] for split in ("train", "val", "test")}
    source["val"].write_bytes(source["train"].read_bytes())
    count = len(load_dataset(spec, split="val"))
    train = f"val: 1 of {count} images are in train too, byte for byte, so that heads are chosen on"
    assert [text.startswith(train) for text in told()] == [True]
    source["val"].write_bytes(source["test"].read_bytes())
    assert told() == ["test: 1 of 4 images are in val too, byte for byte"]
    if kind == "imagefolder":
        assert "test: 1 of 4 images are in val too, byte for byte" in check_dataset(spec, Path(), sample=None).notes


def test_samples_of_shards_that_are_in_train_too_are_counted(tmp_path: Path) -> None:
    write_shards(tmp_path, {"train": 6, "val": 2})
    write_shards(tmp_path, {"test": 4}, first=4)
    assert copied(f"webdataset:{tmp_path}", "classification") == ["test: 2 of 4 images are in train too, byte for byte"]


def test_a_folder_that_is_linked_as_a_second_class_is_seen(tmp_path: Path) -> None:
    write_classes(tmp_path, {"train": 3, "test": 2})
    apart(tmp_path)
    (tmp_path / "train" / "puma").symlink_to("cat")
    (tmp_path / "test" / "puma").symlink_to("cat")
    assert copied(f"imagefolder:{tmp_path}", "classification") == ["test: 2 of 6 images repeat others, byte for byte"]


def test_a_single_class_is_named(tmp_path: Path) -> None:
    write_classes(tmp_path, {"train": 3, "test": 2}, ("only",))
    apart(tmp_path)
    found = ["train: every label is only", "test: every label is only"]
    assert said(f"imagefolder:{tmp_path}", "classification") == found


def test_a_class_of_nearly_all_pixels_is_named(tmp_path: Path) -> None:
    spec = masks(tmp_path, 0)
    for path in (tmp_path / "masks").rglob("*.png"):
        few = np.zeros_like(np.array(Image.open(path)))
        few[0, :2] = 1
        save(path, few)
    found = said(spec, "segmentation")
    assert [text.split(": 99.")[0] for text in found] == ["train", "test"]
    assert all(text.endswith("% of the labels are class 0") for text in found)


def test_depth_that_is_the_same_everywhere_is_named(tmp_path: Path) -> None:
    spec = depths(tmp_path, 1000)
    apart(tmp_path)
    for path in (tmp_path / "depth").rglob("*.png"):
        save(path, np.full((24, 32), 2500, np.uint16))
    assert said(spec, "depth") == ["train: every depth is 2.5 m", "test: every depth is 2.5 m"]


@pytest.mark.parametrize(("millimetres", "doubted"), [(1, False), (40, True)])
def test_few_depths_are_doubted_where_8_bits_would_reach_so_far(
    tmp_path: Path, millimetres: int, doubted: bool
) -> None:
    spec = depths(tmp_path, 1000)
    near = (9_000 + millimetres * np.arange(256) if millimetres == 1 else millimetres * np.arange(1, 257)).astype(
        np.uint16
    )
    for path in (tmp_path / "depth").rglob("*.png"):
        save(path, np.resize(near, (24, 32)))
    assert bool([text for text in said(spec, "depth") if "as if stored in 8 bits once" in text]) is doubted


def test_masks_of_which_none_can_be_read_are_an_error_and_no_doubt(tmp_path: Path) -> None:
    spec = masks(tmp_path, 0, 1)
    for path in (tmp_path / "masks").rglob("*.png"):
        save(path, noise(1, *np.array(Image.open(path)).shape, 3))
    with pytest.raises(UserError, match=r"train/.*\.png is an image of mode RGB; expected class indices"):
        said(spec, "segmentation")


def test_classes_in_shards_that_are_counted_from_1_are_an_error(tmp_path: Path) -> None:
    write_shards(tmp_path, {"train": 8, "test": 4})
    (tmp_path / "classes.txt").write_text("a\nb\n")
    for path in tmp_path.glob("*.tar"):
        path.write_bytes(path.read_bytes().replace(b"1" + bytes(511), b"2" + bytes(511)))
    with pytest.raises(UserError, match=r"train has classification label 2; expected 0 to 1\. Correct the labels"):
        said(f"webdataset:{tmp_path}", "classification")


def test_masks_in_jpeg_are_doubted(tmp_path: Path) -> None:
    spec = masks(tmp_path, 0, 1)
    path = tmp_path / "masks" / "test" / "1.png"
    save(path.with_suffix(".jpg"), np.zeros_like(np.array(Image.open(path))))
    path.unlink()
    found = [text for text in said(spec, "segmentation") if "JPEG" in text]
    assert [text.partition(",")[0] for text in found] == ["test: 1 of 3 sampled masks are JPEG"]
