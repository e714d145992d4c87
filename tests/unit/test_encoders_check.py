"""The checks of an encoder: a sound one passes them all, and each kind of broken one fails its own."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustprobe import Encoder, EncoderCard, FeatureDims, Features, UserError
from robustprobe.encoders._check import check_encoder

pytestmark = pytest.mark.unit

FROZEN = "frozen, in evaluation mode"
SHAPES = "shapes as in the card"
SAME = "deterministic features"
ALONE = "features independent of the batch"
GRADIENT = "gradient reaches the pixels"
INSIDE = "images in [0, 1], normalised inside"
PLACE = "patch tokens in image order"
SIZES = "several sizes"


class Sound(Encoder):
    """Small, and right in every respect; the others change one thing each."""

    def __init__(self, **card: Any) -> None:
        given = {"name": "sound", "patch_size": 4, "input_size": (24, 24), "widths": FeatureDims(6, 6), **card}
        super().__init__(EncoderCard(**given))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 6, 4, stride=4)
        self.dropout = nn.Dropout(0.5)

    def normalise(self, images: Tensor) -> Tensor:
        return (images - 0.5) / 0.25

    def features(self, images: Tensor) -> Features:
        patches = self.conv(self.normalise(images))
        return Features(patches.mean((2, 3)), patches)


class Random(Sound):
    def features(self, images: Tensor) -> Features:
        cls, patches = super().features(images)
        return Features(cls + 0.1 * torch.rand_like(cls), patches)


class BatchNormed(Sound):
    def features(self, images: Tensor) -> Features:
        cls, patches = super().features(images)
        return Features(cls - cls.mean(0), patches)


class Detached(Sound):
    def features(self, images: Tensor) -> Features:
        cls, patches = super().features(images)
        return Features(cls.detach(), patches)


class NoGrad(Sound):
    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        return super().features(images)


class Rounded(Sound):
    def normalise(self, images: Tensor) -> Tensor:
        return super().normalise((255 * images).round() / 255)


class Cropped(Sound):
    """Only the middle of the image counts."""

    def normalise(self, images: Tensor) -> Tensor:
        mask = torch.zeros_like(images)
        mask[:, :, 4:-4, 4:-4] = 1
        return super().normalise(images * mask)


class ForBytes(Sound):
    def normalise(self, images: Tensor) -> Tensor:
        return super().normalise(images / 255)


class Unnormalised(Sound):
    def normalise(self, images: Tensor) -> Tensor:
        return images


class UnnormalisedOnPurpose(Unnormalised):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.ones(3))


class Transposed(Sound):
    def features(self, images: Tensor) -> Features:
        cls, patches = super().features(images)
        return Features(cls, patches.transpose(2, 3).reshape(patches.shape))


class OneSize(Sound):
    def __init__(self, **card: Any) -> None:
        super().__init__(**card)
        self.positions = nn.Parameter(torch.zeros(1, 6, 6, 6))

    def features(self, images: Tensor) -> Features:
        _, patches = super().features(images)
        patches = patches + self.positions
        return Features(patches.mean((2, 3)), patches)


class AlwaysNaN(Sound):
    def features(self, images: Tensor) -> Features:
        cls, patches = super().features(images)
        return Features(cls * torch.nan, patches)


def failures(encoder: Encoder) -> dict[str, str]:
    return {check.name: check.seen for check in check_encoder(encoder) if not check.passed}


@pytest.mark.parametrize(
    "encoder", [Sound(), UnnormalisedOnPurpose(), OneSize(fixed_size=True)], ids=lambda e: type(e).__name__
)
def test_sound_encoders_pass_every_check(encoder: Encoder) -> None:
    found = check_encoder(encoder.freeze())
    assert all(check.passed for check in found), found
    assert [c.name for c in found] == [FROZEN, SHAPES, SAME, ALONE, GRADIENT, INSIDE, PLACE, SIZES]


@pytest.mark.parametrize(
    ("encoder", "check", "seen"),
    [
        (Sound(widths=FeatureDims(6, 7)), SHAPES, "instead of"),
        (Sound(widths=FeatureDims(5, 6)), SHAPES, r"\(2, 6\) and .* instead of \(2, 5\)"),
        (Sound(patch_size=2), SHAPES, "instead of"),
        (AlwaysNaN(), SHAPES, "not finite"),
        (Random(), SAME, r"relative difference \d"),
        (BatchNormed(), ALONE, r"relative difference \d"),
        (Detached(), GRADIENT, "none from cls: the graph is cut inside"),
        (NoGrad(), GRADIENT, "none from cls"),
        (Rounded(), GRADIENT, "from cls to 0%"),
        (Cropped(), GRADIENT, "from cls to 44% and from patches to 44%"),
        (ForBytes(), INSIDE, "the encoder seems to expect values up to 255"),
        (Unnormalised(), INSIDE, "nothing is normalised inside.*buffers `mean` of 0 and `std` of 1"),
        (Transposed(), PLACE, "rows and columns are exchanged"),
        (OneSize(), SIZES, "RuntimeError|UserError"),
        (OneSize(input_size=(32, 24)), SHAPES, "RuntimeError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Encoder) else "",
)
def test_broken_encoders_fail_their_check(encoder: Encoder, check: str, seen: str) -> None:
    import re

    found = failures(encoder.freeze())
    assert check in found
    assert re.search(seen, found[check])


def test_training_mode_and_parameters_that_ask_for_a_gradient_are_found() -> None:
    encoder = Sound()
    encoder.eval()
    assert failures(encoder) == {FROZEN: "2 parameters require a gradient, such as conv.weight"}
    encoder.freeze()
    encoder.dropout.train()
    assert failures(encoder) == {FROZEN: "1 modules in training mode, such as dropout"}


def test_another_size_than_the_fixed_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"sound got images of shape .*for \(24, 24\) only"):
        OneSize(fixed_size=True).freeze()(torch.rand(1, 3, 24, 32))
