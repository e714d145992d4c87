"""Views show every pixel to the encoder and put outputs back where their pixels are."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from robustprobe.core.resize import resized
from robustprobe.core.types import FeatureDims, Features
from robustprobe.core.views import Padded, Resized, Windows, as_one, last_layers, side_by_side, starts
from robustprobe.encoders import Encoder

pytestmark = pytest.mark.unit

sides = st.integers(5, 40)


def coordinates(height: int, width: int) -> Tensor:
    """An image (1, 3, H, W) whose pixels say where they are."""
    down, along = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([down, along, torch.ones_like(down)])[None].float() / 64


@given(height=sides, width=sides, side=sides)
def test_images_are_resized_with_antialiasing_alone_as_in_a_batch(height: int, width: int, side: int) -> None:
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    found = resized(images, (side, 7))
    expected = F.interpolate(images, size=(side, 7), mode="bilinear", antialias=True).clamp(0, 1)
    assert torch.equal(found, expected)
    assert torch.equal(resized(images[1], (side, 7)), expected[1])
    assert torch.equal(Resized(size=(side, 7)).cut(images), expected)
    assert resized(images, (height, width)) is images


@given(height=sides, width=sides, stride=st.integers(1, 8))
def test_windows_put_every_pixel_back_where_it_was(height: int, width: int, stride: int) -> None:
    view, images = Windows(window=8, stride=stride), torch.cat([coordinates(height, width)] * 2)
    parts = view.cut(images)
    assert parts.shape[1:] == (3, 8, 8)
    torch.testing.assert_close(view.join(parts, (height, width)), images)
    assert view.pixels((height, width)) == len(parts) // 2 * 64


@given(side=st.integers(8, 200), window=st.integers(1, 8), stride=st.integers(1, 8))
def test_windows_cover_a_side_once_and_end_at_its_edge(side: int, window: int, stride: int) -> None:
    found = starts(side, window, min(stride, window))
    assert found == sorted(set(found))
    assert found[0] == 0
    assert found[-1] + window == side
    assert all(b - a <= min(stride, window) for a, b in pairwise(found))


def test_windows_lie_where_mmsegmentation_puts_them() -> None:
    assert starts(1024, 512, 341) == [0, 341, 512]
    assert starts(512, 512, 341) == [0]
    assert starts(448, 224, 100) == [0, 100, 200, 224]


def test_overlapping_windows_are_averaged() -> None:
    view = Windows(window=4, stride=2)
    parts = torch.arange(2.0)[:, None, None, None].expand(2, 1, 4, 4)
    assert view.join(parts, (4, 6))[0, 0, 0].tolist() == [0, 0, 0.5, 0.5, 1, 1]


@given(height=sides, width=sides, patch=st.integers(1, 9))
def test_padding_repeats_the_edge_and_is_cut_off_again(height: int, width: int, patch: int) -> None:
    view, images = Padded(patch=patch), coordinates(height, width)
    padded = view.cut(images)
    assert padded.shape[2:] == view.part_size((height, width))
    assert all(
        0 <= has - side < patch and has % patch == 0
        for has, side in zip(padded.shape[2:], (height, width), strict=True)
    )
    assert set(padded.unique().tolist()) == set(images.unique().tolist())
    assert torch.equal(view.join(padded, (height, width)), images)


def test_resizing_leaves_images_of_the_right_size_alone() -> None:
    images = torch.rand(2, 3, 8, 8)
    assert Resized(size=(8, 8)).cut(images) is images
    assert Resized(size=(4, 6)).cut(images).shape == (2, 3, 4, 6)


@pytest.mark.parametrize("view", [Resized(size=(16, 24)), Padded(patch=8), Windows(window=16, stride=8)])
def test_embedding_of_an_image_holds_all_its_parts_and_no_other_image(
    view: Resized | Padded | Windows, tiny_encoder: Encoder
) -> None:
    images = torch.rand(3, 3, 20, 27, generator=torch.Generator().manual_seed(0))
    whole = view.embedding(tiny_encoder, images)
    assert len(whole.cls) == len(whole.patches) == 3
    parts = len(view.cut(images)) // 3
    assert whole.cls.shape[1] == 16 * parts
    assert whole.patches[0].numel() == view.features(tiny_encoder, images).patches.numel() // 3
    changed = images.clone()
    changed[1] = 0
    other = view.embedding(tiny_encoder, changed)
    for row, same in ((0, True), (1, False), (2, True)):
        assert torch.allclose(other.cls[row], whole.cls[row], atol=1e-5) is same
        assert torch.allclose(other.patches[row], whole.patches[row], atol=1e-5) is same


def test_parts_of_an_image_become_one_in_order() -> None:
    cls, patches = torch.arange(8.0).view(4, 2), torch.arange(4.0)[:, None, None, None].expand(4, 5, 2, 3)
    whole = as_one(Features(cls, patches), 2)
    assert whole.cls.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert whole.patches.shape == (2, 5, 4, 3)
    assert whole.patches[0, 0, :, 0].tolist() == [0, 0, 1, 1]


def test_layers_lie_side_by_side_with_the_last_one_last(tiny_encoder: Encoder) -> None:
    first, last = (Features(torch.full((1, 2), v), torch.full((1, 3, 1, 1), v)) for v in (1.0, 2.0))
    both = side_by_side([first, last])
    assert both.cls.tolist() == [[1, 1, 2, 2]]
    assert all(map(torch.equal, last_layers(both, FeatureDims(2, 3), 1), last))
    assert all(map(torch.equal, last_layers(both, FeatureDims(2, 3), 2), both))
    images = torch.rand(2, 3, 16, 16)
    deep = replace(Resized(size=(16, 16)), layers=1).features(tiny_encoder, images)
    assert all(map(torch.equal, deep, tiny_encoder(images)))
