"""The checks of an encoder: a sound one passes them all, and each kind of broken one fails its own."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import robustprobe as rp
from robustprobe import Encoder, EncoderCard, FeatureDims, Features, UserError
from robustprobe.encoders import check_encoder, order_doubt

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


class Transposed(Sound):
    def features(self, images: Tensor) -> Features:
        cls, patches = super().features(images)
        return Features(cls, patches.transpose(2, 3).reshape(patches.shape))


class Ordered(Sound):
    """Patch tokens in another order than the image."""

    def __init__(self, order: Callable[[Tensor], Tensor], **card: Any) -> None:
        super().__init__(**card)
        self.order = order

    def features(self, images: Tensor) -> Features:
        cls, patches = super().features(images)
        return Features(cls, self.order(patches))


def shifted(by: int) -> Callable[[Tensor], Tensor]:
    return lambda patches: patches.flatten(2).roll(by, 2).reshape(patches.shape)


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


class AnswersTensor(Sound):
    def features(self, images: Tensor) -> Any:
        return super().features(images).patches


class AnswersTuple(Sound):
    def features(self, images: Tensor) -> Any:
        return tuple(super().features(images))


class AnswersDict(Sound):
    def features(self, images: Tensor) -> Any:
        return {"last_hidden_state": super().features(images).patches}


class ChannelsLast(Sound):
    def features(self, images: Tensor) -> Features:
        cls, patches = super().features(images)
        return Features(cls, patches.permute(0, 2, 3, 1))


class TokenList(Sound):
    def features(self, images: Tensor) -> Features:
        cls, patches = super().features(images)
        return Features(cls, patches.flatten(2).transpose(1, 2))


class WholeNumbers(Sound):
    def features(self, images: Tensor) -> Features:
        cls, patches = super().features(images)
        return Features(cls, patches.long())


class Reentrant(Sound):
    def features(self, images: Tensor) -> Features:
        patches = checkpoint(self.conv, self.normalise(images), use_reentrant=True)
        return Features(patches.mean((2, 3)), patches)


class WithNorm(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(6)


class BackToTraining(WithNorm):
    def features(self, images: Tensor) -> Features:
        self.norm.train()
        patches = self.norm(super().features(images).patches)
        return Features(patches.mean((2, 3)), patches)


class TrainingMeanwhile(WithNorm):
    def features(self, images: Tensor) -> Features:
        self.norm.train()
        patches = self.norm(super().features(images).patches)
        self.norm.eval()
        return Features(patches.mean((2, 3)), patches)


class WritesIntoImages(Sound):
    def normalise(self, images: Tensor) -> Tensor:
        return images.sub_(0.5).div_(0.25)


class InHalf(Sound):
    """Half precision inside; heads get what the images have."""

    def features(self, images: Tensor) -> Features:
        cls, patches = super().features(images)
        return Features(cls.bfloat16(), patches.bfloat16())


class Quantised(Sound):
    """A quantised layer that the features do not use, as of a head that was left in."""

    def __init__(self) -> None:
        super().__init__()
        head = nn.Sequential(nn.Linear(6, 2))
        self.head = torch.ao.quantization.quantize_dynamic(head, {nn.Linear}, dtype=torch.qint8)


def failures(encoder: Encoder) -> dict[str, str]:
    return {check.name: check.seen for check in check_encoder(encoder) if not check.passed}


@pytest.mark.parametrize(
    "encoder",
    [Sound(), Unnormalised(), WritesIntoImages(), InHalf(), Quantised(), OneSize(fixed_size=True)],
    ids=lambda e: type(e).__name__,
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
        (Detached(), GRADIENT, "no gradient from cls to the images; the graph is cut inside"),
        (NoGrad(), GRADIENT, "no gradient from cls"),
        (AnswersTensor(), SHAPES, r"answers a Tensor of shape \(2, 6, 6, 6\); `features` must return"),
        (AnswersTuple(), SHAPES, "answers a tuple; .*robustprobe.wrap"),
        (AnswersDict(), SHAPES, "answers a dict with last_hidden_state"),
        (ChannelsLast(), SIZES, r"Channels are last: return patches.permute\(0, 3, 1, 2\)"),
        (TokenList(), SHAPES, "Patch tokens are a list: return tokens.transpose"),
        (WholeNumbers(), SHAPES, "patches has type torch.int64; features are floating point"),
        (Reentrant(), GRADIENT, "reentrant checkpointing.*use_reentrant=False"),
        (BackToTraining(), SHAPES, "its layer norm is in training mode"),
        (TrainingMeanwhile(), SHAPES, "changed its own norm.num_batches_tracked, as a BatchNorm in training mode"),
        (Rounded(), GRADIENT, "from cls to 0%"),
        (Cropped(), GRADIENT, "from cls to 44% and from patches to 44%"),
        (ForBytes(), INSIDE, "the encoder seems to expect values up to 255"),
        (Transposed(), PLACE, "patch tokens have rows and columns exchanged"),
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


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (shifted(-1), "are shifted by -1"),
        (shifted(1), "are shifted by 1"),
        (shifted(4), "are shifted by 4"),
        (lambda patches: patches.flip(3), "are mirrored"),
        (lambda patches: patches.flip(2), "are upside down"),
        (lambda patches: patches.transpose(2, 3), "have rows and columns exchanged"),
    ],
)
@pytest.mark.parametrize("card", [{}, {"fixed_size": True, "input_size": (40, 40)}], ids=["any size", "one size"])
def test_patch_tokens_in_another_order_are_told(
    order: Callable[[Tensor], Tensor], said: str, card: dict[str, Any]
) -> None:
    assert f"patch tokens {said}: heads on patches see" in failures(Ordered(order, **card).freeze())[PLACE]
    assert f"patch tokens {said}: heads on patches see" in order_doubt(Ordered(order, **card).freeze())


def test_a_class_token_behind_the_patches_of_a_wrapped_network_is_told() -> None:
    class Behind(nn.Module):
        def __init__(self, first: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.first = nn.Conv2d(3, 32, 4, 4), first
            self.block = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.conv(images).flatten(2).transpose(1, 2)
            cls = torch.ones_like(tokens[:, :1])
            both = [cls, tokens] if self.first else [tokens, cls]
            return cast(Tensor, self.block(torch.cat(both, 1)))

    right, wrong = (rp.wrap(Behind(first), mean=0.5, std=0.25, patch_size=4, input_size=32) for first in (True, False))
    assert order_doubt(right) == ""
    assert "patch tokens are shifted by -1" in order_doubt(wrong)
    with pytest.warns(UserWarning, match=r"Behind: patch tokens are shifted by -1: heads"):
        table = rp.evaluate(wrong, "scenes", "clean", tasks="segmentation", limit=2, head={"train_limit": 8})
    assert "plausible heads" in table.failed_checks[0]


@pytest.mark.parametrize(
    "order", [lambda p: p.mean((2, 3), keepdim=True).expand_as(p), lambda p: p[..., torch.randperm(6)]]
)
def test_features_that_show_no_order_are_not_doubted(order: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    assert order_doubt(Ordered(order).freeze()) == ""


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


def test_the_callers_images_stay_as_they_are() -> None:
    images = torch.rand(2, 3, 24, 24)
    before = images.clone()
    WritesIntoImages().freeze()(images)
    assert torch.equal(images, before)


def test_one_fault_is_told_once() -> None:
    told = [check.seen for check in check_encoder(AnswersTensor().freeze()) if not check.passed]
    assert len(told) > 2
    assert len([text for text in told if "must return" in text]) <= 3  # once for each shape of images
