"""Images of every mode, orientation and size."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from robustprobe import UserError, load_dataset
from robustprobe.core.images import opened
from robustprobe.datasets._images import as_rgb, centre_crop, open_matching, read_mask, to_tensor
from tests.folders import noise, photo, save, turned, write_classes

pytestmark = pytest.mark.unit


def test_grey_of_16_bits_is_scaled_not_clipped() -> None:
    levels = np.array([[0, 257, 32896, 65535]], np.uint16)
    for image in (Image.fromarray(levels), Image.fromarray(levels.astype(np.int32))):
        assert np.array(as_rgb(image))[..., 1].tolist() == [[0, 1, 128, 255]]


@pytest.mark.parametrize("value", [-1, 65536])
def test_numbers_beyond_16_bits_are_refused(value: int) -> None:
    with pytest.raises(UserError, match=r"holds values outside 16 bits \(.* to .*\); save it with 8 bits"):
        as_rgb(Image.fromarray(np.full((2, 2), value, np.int32)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5, 70_000.0])
def test_floating_point_images_of_no_known_range_are_refused(value: float) -> None:
    with pytest.raises(UserError, match="holds values outside 16 bits"):
        as_rgb(Image.fromarray(np.array([[0, value]], np.float32)))


@pytest.mark.parametrize(
    ("stored", "served"),
    [
        (np.array([[0, 1023]], np.uint16), [0, 255]),  # 10 bits
        (np.array([[0, 2048, 4095]], np.uint16), [0, 127, 255]),  # 12 bits, as cameras and X-ray detectors record
        (np.array([[8192, 16383]], np.uint16), [127, 255]),  # 14 bits
        (np.array([[0, 7, 200]], np.uint16), [0, 7, 200]),  # 8 bits in a 16-bit file
        (np.array([[0, 7, 255]], np.int32), [0, 7, 255]),
        (np.array([[0, 0]], np.int32), [0, 0]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 90, 255]], np.float32), [0, 90, 255]),
    ],
)
def test_deep_and_floating_point_grey_is_scaled_by_the_bits_it_uses(
    tmp_path: Path, stored: NDArray[Any], served: list[int]
) -> None:
    path = save(tmp_path / "x.tif", stored)
    for image in (Image.fromarray(stored), Image.open(path)):
        assert np.array(as_rgb(image))[0, :, 2].tolist() == served


def test_transparency_is_dropped() -> None:
    pixels = noise(0, 4, 4, 4)
    assert np.array_equal(np.array(as_rgb(Image.fromarray(pixels))), pixels[..., :3])


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("1", "png"),
        ("L", "png"),
        ("LA", "png"),
        ("P", "png"),
        ("RGBA", "png"),
        ("CMYK", "jpg"),
        ("L", "jpg"),
        ("RGB", "webp"),
    ],
)
def test_photographs_of_every_mode_are_read(tmp_path: Path, mode: str, suffix: str) -> None:
    """A red square, or a grey one where there are no colours."""
    red = Image.new("RGB", (40, 30), (200, 30, 30)).convert(mode)
    save(tmp_path / "test" / "a" / f"x.{suffix}", red)
    (tmp_path / "test" / "b").mkdir()
    [sample] = load_dataset(f"imagefolder:{tmp_path}", size=(30, 40))
    expected = np.array(red.convert("RGB")).mean((0, 1)) / 255
    np.testing.assert_allclose(sample.image.mean((1, 2)).numpy(), expected, atol=0.02)


@given(height=st.integers(1, 90), width=st.integers(1, 90), side=st.integers(1, 64), seed=st.integers(0, 9))
def test_centre_crop_is_that_of_torchvision(height: int, width: int, side: int, seed: int) -> None:
    image = Image.fromarray(noise(seed, height, width, 3))
    found = centre_crop(image, side)
    transforms = torchvision.transforms
    resize = transforms.Resize(int(side * 256 / 224), transforms.InterpolationMode.BILINEAR)
    expected = transforms.CenterCrop(side)(resize(image))
    assert np.array_equal(np.array(found), np.array(expected))


def test_a_crop_of_224_pixels_comes_from_256() -> None:
    image = Image.new("RGB", (512, 256))
    image.paste((255, 255, 255), (144, 16, 368, 240))
    assert bool((to_tensor(centre_crop(image, 224), (224, 224)) == 1).all())


ORIENTATIONS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_photographs_in_ones_own_folder_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    upright = noise(orientation, 20, 30, 3)
    stored = np.ascontiguousarray(ORIENTATIONS[orientation](upright))
    for name in ("imagefolder", "imagenet"):
        place = tmp_path / name / "val" / "n0" / "x.png"
        save(place, stored, exif=turned(orientation))
        (place.parent.parent / "n1").mkdir()
    own, official = (
        load_dataset(name, root=tmp_path, size=20)[0].image
        for name in (f"imagefolder:{tmp_path / 'imagefolder'}", "imagenet")
    )
    assert np.array_equal((own * 255).round().byte().permute(1, 2, 0).numpy(), upright)
    # Published numbers are measured on ImageNet as stored.
    assert np.array_equal((official * 255).round().byte().permute(1, 2, 0).numpy(), stored)


@pytest.mark.parametrize("orientation", [6, 8])
def test_a_photograph_is_turned_only_where_its_label_says_so(tmp_path: Path, orientation: int) -> None:
    upright = noise(1, 20, 30, 3)
    stored = np.ascontiguousarray(ORIENTATIONS[orientation](upright))
    path = save(tmp_path / "x.png", stored, exif=turned(orientation))
    assert np.array_equal(np.array(open_matching(path, (20, 30), Path("mask"))), upright)
    assert np.array_equal(np.array(open_matching(path, (30, 20), Path("mask"))), stored)
    with pytest.raises(UserError, match=r"x\.png is 30 x 20 and its label mask is 30 x 30; expected the same size"):
        open_matching(path, (30, 30), Path("mask"))


def test_decompression_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path, {"test": 1})
    path = save(tmp_path / "test" / "cat" / "bomb.png", Image.new("L", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.raises(UserError, match=r"test/cat/bomb\.png is refused: .*decompression bomb"):
        list(load_dataset(f"imagefolder:{tmp_path}"))
    with pytest.raises(UserError, match=r"bomb\.png is refused: .*decompression bomb"):
        read_mask(path)


@pytest.mark.parametrize("spoil", [b"", b"not an image", None])
def test_broken_photographs_are_named(tmp_path: Path, spoil: bytes | None) -> None:
    write_classes(tmp_path, {"test": 2})
    path = tmp_path / "test" / "dog" / "dog_test_0.JPEG"
    path.write_bytes(path.read_bytes()[:400] if spoil is None else spoil)
    with pytest.raises(UserError, match=r"image test/dog/dog_test_0\.JPEG cannot be read: .*Replace the file"):
        list(load_dataset(f"imagefolder:{tmp_path}"))


def test_resized_images_of_any_size_are_served_at_one(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / "test" / "ab"[i % 2] / f"{i}.png", photo(i))
    images = [sample.image for sample in load_dataset(f"imagefolder:{tmp_path}", size=(16, 16))]
    assert torch.stack(images).shape == (4, 3, 16, 16)


@pytest.mark.parametrize(("content", "words"), [
    (b"", "is empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3456\n", "is a Git LFS pointer.*git lfs pull"),
    (b"\n <!DOCTYPE html><html>Not found</html>", "is a web page or XML"),
    (b"\0\0\0\x1cftypheix\0\0\0\0mif1heix" + bytes(80), "is HEIC or a video.*convert it"),
    (b"\x93NUMPY\x01\0v\0" + bytes(80), "is an array of NumPy"),
    (b"not known", "cannot identify image file"),
])  # fmt: skip
def test_what_is_no_image_is_called_what_it_is(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "test" / "a").mkdir(parents=True)
    path = tmp_path / "test" / "a" / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"image test/a/x\.jpg cannot be read: .*{words}"):
        load_dataset(f"imagefolder:{tmp_path}")[0]
    with pytest.raises(OSError, match=words):
        opened(io.BytesIO(content))


def test_every_error_of_an_image_names_it(tmp_path: Path) -> None:
    for name in ("deep", "long"):
        (tmp_path / "test" / name).mkdir(parents=True)
    Image.fromarray(np.full((8, 8), -0.5, np.float32)).save(tmp_path / "test" / "deep" / "x.tif")
    Image.new("L", (100_000, 1)).save(tmp_path / "test" / "long" / "y.png")
    data = load_dataset(f"imagefolder:{tmp_path}")
    with pytest.raises(UserError, match=r"image test/deep/x\.tif: .* holds values outside 16 bits"):
        data[0]
    with pytest.raises(UserError, match=r"image test/long/y\.png: an image of 1 x 100000, resized, would have"):
        data[1]
