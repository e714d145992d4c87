"""Depth: the labelled MATLAB file of NYU, BTS's folders, and one's own maps."""

import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from robustprobe import UserError, load_dataset
from tests.folders import SIZES, millimetres, noise, nyu_millimetres, photo, save, write_depthfolder, write_nyu

pytestmark = pytest.mark.unit

SCENES = ("kitchen", "bathroom", "kitchen", "bedroom")


def raw_depth(row: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    depth = np.random.default_rng(row).uniform(0.7, 9.9, (480, 640)).astype(np.float32)
    depth[200:210] = 0
    return depth


def write_mat(folder: Path) -> Path:
    """Four images, of which the first and third (by MATLAB's count 1 and 3) are test."""
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w") as file:
        # MATLAB counts the axes backwards: (N, colour, width, height).
        file["images"] = np.stack([noise(row, 480, 640, 3).transpose(2, 1, 0) for row in range(4)])
        file["rawDepths"] = np.stack([raw_depth(row).T for row in range(4)])
        file["depths"] = np.full((4, 640, 480), 5, np.float32)
        names = file.create_dataset("sceneTypes", (1, 4), dtype=h5py.ref_dtype)
        for row, scene in enumerate(SCENES):
            text = file.create_dataset(f"#refs#/{row}", data=np.array([[ord(letter)] for letter in scene], np.uint16))
            names[0, row] = text.ref
    savemat(folder / "splits.mat", {"trainNdxs": np.array([[2], [4]]), "testNdxs": np.array([[1], [3]])})
    return folder


@pytest.fixture(scope="module")
def mat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mat")
    write_mat(root / "nyu_depth_v2")
    return root


def test_the_matlab_file_is_read_in_its_official_split(mat: Path) -> None:
    data = load_dataset("nyu_depth_v2", root=mat)
    assert data.kept_ids == ["kitchen/rgb_00000", "kitchen/rgb_00002"]
    for sample, row in zip(data, (0, 2), strict=True):
        expected = np.zeros((480, 640, 3), np.uint8)
        expected[7:474, 7:632] = noise(row, 480, 640, 3)[7:474, 7:632]
        assert np.array_equal((sample.image * 255).round().byte().permute(1, 2, 0).numpy(), expected)
        depth, inside = sample.targets["depth"].numpy(), np.zeros((480, 640), bool)
        inside[45:471, 41:601] = True
        assert np.array_equal(depth, np.where(inside, raw_depth(row), 0))
    assert data.remarks()


def test_training_depth_of_the_matlab_file_is_not_cropped(mat: Path) -> None:
    found = [load_dataset("nyu_depth_v2", root=mat, split=split) for split in ("train", "val")]
    assert sorted(name for data in found for name in data.kept_ids) == ["bathroom/rgb_00001", "bedroom/rgb_00003"]
    for data in found:
        row = int(data.kept_ids[0][-5:])
        assert np.array_equal(data[0].targets["depth"].numpy(), raw_depth(row))


def test_digest_of_the_matlab_file_holds_both_files(mat: Path) -> None:
    data = load_dataset("nyu_depth_v2", root=mat)
    assert sorted(path.name for path in data.files()) == ["nyu_depth_v2_labeled.mat", "splits.mat"]
    assert data.digest() == load_dataset("nyu_depth_v2", root=mat).digest()


def test_lists_are_preferred_to_the_matlab_file(tmp_path: Path) -> None:
    write_nyu(write_mat(tmp_path / "nyu_depth_v2"), {"test": 1})
    assert load_dataset("nyu_depth_v2", root=tmp_path).kept_ids == ["test/rgb/0000"]


def spoil_splits(folder: Path) -> None:
    savemat(folder / "splits.mat", {"testNdxs": np.array([[1], [5]])})


def drop_depths(folder: Path) -> None:
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "r+") as file:
        del file["rawDepths"]


def cut_mat(folder: Path) -> None:
    path = folder / "nyu_depth_v2_labeled.mat"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "splits.mat").unlink(), r"no .*splits\.mat; expected splits\.mat, the official"),
        (lambda folder: savemat(folder / "splits.mat", {"x": 1}), r"splits\.mat has no list testNdxs"),
        (lambda folder: (folder / "splits.mat").write_bytes(b"x"), r"splits\.mat has no list testNdxs"),
        (spoil_splits, "lists images that .* does not hold"),
        (drop_depths, "has no rawDepths. Download the labelled"),
        (cut_mat, r"labeled\.mat cannot be read"),
    ],
)
def test_wrong_matlab_files_are_refused(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(write_mat(tmp_path / "nyu_depth_v2"))
    with pytest.raises(UserError, match=message):
        list(load_dataset("nyu_depth_v2", root=tmp_path))


@pytest.mark.parametrize("module", ["h5py", "scipy.io"])
def test_what_reads_matlab_files_is_asked_for(mat: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"is needed to read MATLAB files; install it with .*robustprobe\[nyu\]"):
        load_dataset("nyu_depth_v2", root=mat)


def test_the_folders_of_bts_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "nyu_depth_v2"
    for place, split, slash in (("official_splits/test", "test", ""), ("sync", "train", "/")):
        lines = []
        for i in range(2):
            save(folder / place / "bathroom" / f"rgb_{i:05d}.jpg", noise(i, 480, 640, 3))
            save(folder / place / "bathroom" / f"sync_depth_{i:05d}.png", nyu_millimetres(i), compress_level=1)
            lines.append(f"{slash}bathroom/rgb_{i:05d}.jpg {slash}bathroom/sync_depth_{i:05d}.png 518.8579")
        (folder / f"nyudepthv2_{split}_files_with_gt.txt").write_text("\n".join(lines))
    data = load_dataset("nyu_depth_v2", root=tmp_path)
    assert data.kept_ids == ["bathroom/rgb_00000", "bathroom/rgb_00001"]
    assert len(list(data)) == 2
    assert len(load_dataset("nyu_depth_v2", root=tmp_path, split="val")[0].image) == 3


def test_depthfolder_is_millimetres_up_to_10_m(tmp_path: Path) -> None:
    write_depthfolder(tmp_path, {"train": 10, "test": 3})
    data = load_dataset(f"depthfolder:{tmp_path}", size=16)
    assert data.kept_ids == ["test/0", "test/1", "test/2"]
    for i, sample in enumerate(data):
        assert min(sample.image.shape[1:]) == 16
        expected = (millimetres(i, *SIZES[i]) / 1000).astype(np.float32)
        assert np.array_equal(sample.targets["depth"].numpy(), expected)


def test_units_of_ones_own_depth_are_read(tmp_path: Path) -> None:
    write_depthfolder(tmp_path, {"train": 10, "test": 1})
    (tmp_path / "depth.json").write_text('{"scale": 256, "max_depth": 30}')
    data = load_dataset(f"depthfolder:{tmp_path}")
    assert data.labels["depth"].max_depth == 30
    metres = (millimetres(0, *SIZES[0]) / 256).astype(np.float32)
    assert np.array_equal(data[0].targets["depth"].numpy(), np.where(metres < 30, metres, 0))


def test_digest_follows_the_units(tmp_path: Path) -> None:
    write_depthfolder(tmp_path, {"train": 10, "test": 1})
    digests = {load_dataset(f"depthfolder:{tmp_path}").digest()}
    for scale in (1000, 2000, 3000):
        (tmp_path / "depth.json").write_text(f'{{"scale": {scale}}}')
        digests.add(load_dataset(f"depthfolder:{tmp_path}").digest())
    # A scale that is given counts for floating-point depth too, which is in metres otherwise.
    assert len(digests) == 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"scale": 0}',
        '{"max_depth": -1}',
        '{"scal": 1000}',
        '{"scale": "x"}',
        '{"scale": NaN}',
        '{"max_depth": true}',
    ],
)
def test_wrong_units_are_refused(tmp_path: Path, text: str) -> None:
    (write_depthfolder(tmp_path, {"train": 10, "test": 1}) / "depth.json").write_text(text)
    with pytest.raises(UserError, match=r"depth\.json .*\"scale\": 1000"):
        list(load_dataset(f"depthfolder:{tmp_path}"))


def grey_map(folder: Path) -> None:
    save(folder / "depth/test/0.png", noise(0, *SIZES[0]))


def colour_map(folder: Path) -> None:
    save(folder / "depth/test/0.png", photo(0))


def other_size(folder: Path) -> None:
    save(folder / "depth/test/0.png", millimetres(0, 5, 7))


def turned_map(folder: Path) -> None:
    save(folder / "depth/test/0.png", Image.fromarray(millimetres(0, *SIZES[0]).T.copy()))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "depth/test/0.png").unlink(), r"test/0\.jpg has no label map .*depth/test/0\.png"),
        (grey_map, r"depth/test/0\.png has 8 bits per pixel; expected 16-bit"),
        (colour_map, r"depth/test/0\.png has shape .*; expected one channel"),
        (other_size, r"0\.jpg is 20 x 30 and its label .*0\.png is 5 x 7"),
        (turned_map, r"0\.jpg is 20 x 30 and its label .*0\.png is 30 x 20"),
    ],
)
def test_wrong_depth_maps_are_refused(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(write_depthfolder(tmp_path, {"train": 10, "test": 2}))
    with pytest.raises(UserError, match=message):
        list(load_dataset(f"depthfolder:{tmp_path}"))


@pytest.mark.parametrize(("scale", "largest"), [(None, 4.5), (10, 0.45)])
def test_floating_point_depth_is_in_metres_unless_depth_json_says_otherwise(
    tmp_path: Path, scale: int | None, largest: float
) -> None:
    for split, count in (("train", 2), ("test", 1)):
        for number in range(count):
            save(tmp_path / "images" / split / f"{number}.png", noise(number, 8, 9, 3))
            metres = np.linspace(1, 4.5, 72, dtype=np.float32).reshape(8, 9)
            save(tmp_path / "depth" / split / f"{number}.tiff", metres)
    if scale:
        (tmp_path / "depth.json").write_text(f'{{"scale": {scale}}}')
    [sample] = load_dataset(f"depthfolder:{tmp_path}")
    assert float(sample.targets["depth"].max()) == pytest.approx(largest)


@pytest.mark.parametrize("name", ["min_depth", "Scale", "unit"])
def test_a_setting_of_depth_that_is_not_known_is_named(tmp_path: Path, name: str) -> None:
    write_depthfolder(tmp_path, {"test": 1})
    (tmp_path / "depth.json").write_text(f'{{"scale": 256, "{name}": 80}}')
    with pytest.raises(UserError, match=rf"depth\.json holds {name}; expected such as .*max_depth"):
        load_dataset(f"depthfolder:{tmp_path}")[0]


def write_tiff(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    """A TIFF of one strip of any numeric type; Pillow writes only some."""
    height, width = pixels.shape
    kind, bits, data = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind], pixels.itemsize * 8, pixels.tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data), 339: kind}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    path.write_bytes(
        struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)
    )


def with_map(folder: Path, pixels: np.ndarray[Any, Any], settings: str = "") -> Path:
    """A folder of one test image, whose depth map holds these pixels."""
    for split, count in (("train", 2), ("test", 1)):
        for number in range(count):
            save(folder / "images" / split / f"{number}.png", noise(number, *pixels.shape, 3))
            (folder / "depth" / split).mkdir(parents=True, exist_ok=True)
            write_tiff(folder / "depth" / split / f"{number}.tif", pixels)
    if settings:
        (folder / "depth.json").write_text(settings)
    return folder


TENTHS = '{"scale": 10000}'
METRES = np.linspace(1, 4.5, 72).reshape(8, 9)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (METRES.astype(np.float16), "is a TIFF of 16-bit floating point, which is not read; save it as 32-bit"),
        (METRES, "is a TIFF of 64-bit floating point, which is not read; save it as 32-bit"),
        ((1000 * METRES).astype(np.uint64), "is a TIFF of 64-bit whole numbers, which is not read"),
    ],
)
def test_a_map_of_pixels_that_pillow_does_not_know_says_which(
    tmp_path: Path, pixels: np.ndarray[Any, Any], words: str
) -> None:
    with pytest.raises(UserError, match=rf"depth/test/0\.tif {words}"):
        list(load_dataset(f"depthfolder:{with_map(tmp_path, pixels)}"))


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.uint32, np.int32])
def test_whole_numbers_of_any_width_are_millimetres(tmp_path: Path, kind: type) -> None:
    [sample] = load_dataset(f"depthfolder:{with_map(tmp_path, (1000 * METRES).astype(kind))}")
    assert np.allclose(sample.targets["depth"].numpy(), METRES, atol=1e-3)


def test_the_largest_value_of_16_bits_is_unknown_whatever_the_unit(tmp_path: Path) -> None:
    stored = (10_000 * METRES).astype(np.uint16)
    stored[:4] = 65535
    data = load_dataset(f"depthfolder:{with_map(tmp_path, stored, TENTHS)}")
    depth = data[0].targets["depth"].numpy()
    assert (depth[:4] == 0).all(), "6.5535 m would be a depth like any other"
    assert np.allclose(depth[4:], METRES[4:], atol=1e-3)
    wider = load_dataset(f"depthfolder:{with_map(tmp_path / 'wider', stored.astype(np.uint32), TENTHS)}")
    assert np.allclose(wider[0].targets["depth"].numpy()[:4], 6.5535)


@pytest.mark.parametrize("missing", [np.nan, np.inf, -1, 65535])
def test_missing_floating_point_depth_is_unknown_and_no_doubt_of_the_unit(tmp_path: Path, missing: float) -> None:
    metres = METRES.astype(np.float32)
    metres[:4] = missing
    data = load_dataset(f"depthfolder:{with_map(tmp_path, metres)}")
    depth = data[0].targets["depth"].numpy()
    assert (depth[:4] == 0).all()
    assert np.allclose(depth[4:], METRES[4:])
    assert any("are beyond 10 m" in doubt for doubt in data.doubts()) == (missing == 65535)
