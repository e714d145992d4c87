"""Encoders whose fault one call would not show are refused where they are loaded, and all others where they fail."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustprobe as rp
from robustprobe import Encoder, EncoderCard, FeatureDims, Features, UserError
from robustprobe.encoders import check_encoder

pytestmark = pytest.mark.unit


class Plain(Encoder):
    def __init__(self, **card: Any) -> None:
        super().__init__(EncoderCard(name="plain", patch_size=4, input_size=(24, 24), widths=FeatureDims(6, 6), **card))
        self.conv = nn.Conv2d(3, 6, 4, 4)

    def features(self, images: Tensor) -> Features:
        patches = self.conv((images - 0.5) / 0.25)
        return Features(patches.mean((2, 3)), patches)


class OwnForward(Plain):
    def forward(self, images: Tensor) -> Features:  # type: ignore[misc]
        return self.features(images)


class StaysInTraining(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(6)

    def train(self, mode: bool = True) -> "StaysInTraining":
        super().train(mode)
        self.norm.training = True
        return self


class ListOfNetworks(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.norms = {"last": nn.BatchNorm2d(6)}


class Lazy(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.LazyConv2d(6, 4, 4)


class OnMeta(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.to("meta")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Lazy, "has lazy layers without weights"),
        (OwnForward, "has a `forward` of its own, past all checks; call it `features`"),
        (StaysInTraining, r"the layer norm stays in training mode after \.eval\(\)"),
        (ListOfNetworks, "keeps networks in norms, where torch does not find them: .*nn.ModuleDict"),
        (OnMeta, "has weights on the device meta, which holds no values"),
    ],
)
def test_encoders_that_would_be_wrong_without_a_word_are_refused(kind: type[Plain], says: str) -> None:
    with pytest.raises(UserError, match=says):
        kind().freeze()
    with pytest.raises(UserError, match=says):
        rp.evaluate(kind(), "scenes", "clean")


def test_a_list_of_layers_that_torch_knows_is_no_fault() -> None:
    encoder = Plain()
    encoder.stages = [encoder.conv]  # type: ignore[assignment]
    assert encoder.freeze() is encoder


class Fails(Plain):
    def features(self, images: Tensor) -> Features:
        assert len(images) > 1, "a pair is needed"
        return super().features(images)


class NeedsArrays(Plain):
    def features(self, images: Tensor) -> Features:
        return super().features(torch.from_numpy(images.numpy()))


class OutOfMemory(Plain):
    def features(self, images: Tensor) -> Features:
        raise torch.OutOfMemoryError("no memory is left")


class NeedsAPetabyte(Plain):
    def features(self, images: Tensor) -> Features:
        return super().features(images + torch.empty(10**15)[0])


def test_errors_of_own_code_are_one_message_and_lack_of_memory_is_none() -> None:
    image = torch.rand(1, 3, 24, 24)
    with pytest.raises(UserError, match=r"plain fails on images of \(1, 3, 24, 24\): AssertionError: a pair is needed"):
        Fails().freeze()(image)
    with pytest.raises(UserError, match=r"fails on images .*: Can't call numpy\(\)"):
        NeedsArrays().freeze()(image.requires_grad_())
    with pytest.raises(torch.OutOfMemoryError):
        OutOfMemory().freeze()(image)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        NeedsAPetabyte().freeze()(image)


class DividesByContrast(Plain):
    def features(self, images: Tensor) -> Features:
        return super().features((images - images.mean((2, 3), True)) / images.std((2, 3), keepdim=True))


class NormalisesTwice(Plain):
    def features(self, images: Tensor) -> Features:
        return super().features((images - 0.5) / 0.25)


class NormalisesTwiceToOne(Plain):
    def features(self, images: Tensor) -> Features:
        patches = self.conv(((images - 0.5) / 0.5 - 0.5) / 0.5)
        return Features(patches.mean((2, 3)), patches)


@pytest.mark.parametrize(
    ("kind", "check", "seen"),
    [
        (DividesByContrast, "shapes as in the card", "NaN or infinity on black, white, grey images"),
        (NormalisesTwice, "images in [0, 1], normalised inside", "images seem to be normalised twice"),
        (NormalisesTwiceToOne, "images in [0, 1], normalised inside", "images seem to be normalised twice"),
    ],
)
def test_check_encoder_finds_them(kind: type[Plain], check: str, seen: str) -> None:
    found = {one.name: one for one in check_encoder(kind().freeze())}
    assert not found[check].passed
    assert seen in found[check].seen


OWN = """
from robustprobe import Encoder, EncoderCard, FeatureDims
class NoWidths(Encoder):
    def __init__(self): super().__init__(EncoderCard(name="", patch_size="four", input_size=(8, 8)))
    def features(self, images): return images
def kind(): return NoWidths
"""


@pytest.mark.parametrize(
    ("code", "attribute", "says"),
    [
        (
            OWN,
            "NoWidths",
            r"EncoderCard: name: .* at least 1 character.*; patch_size: .*'four'; widths is missing\. Corr",
        ),
        (OWN, "kind", "is the class NoWidths, not an encoder"),
        ("raise SystemExit(3)", "E", "cannot be imported: SystemExit: 3"),
    ],
)
def test_files_that_make_no_encoder_are_told_in_one_line(tmp_path: Path, code: str, attribute: str, says: str) -> None:
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(UserError, match=says) as found:
        rp.load_encoder(f"{tmp_path}/mine.py:{attribute}")
    assert "\n" not in str(found.value)


class Standardises(Plain):
    def features(self, images: Tensor) -> Features:
        patches = torch.nn.functional.batch_norm(self.conv(images), None, None, training=True)
        return Features(patches.mean((2, 3)), patches)


class LessTheirMean(Plain):
    def features(self, images: Tensor) -> Features:
        cls, patches = super().features(images)
        return Features(cls - 0.2 * cls.mean(0), patches)


class Draws(Plain):
    def features(self, images: Tensor) -> Features:
        cls, patches = super().features(images)
        return Features(cls + torch.rand_like(cls), patches)


@pytest.mark.parametrize("kind", [Standardises, LessTheirMean])
def test_heads_are_not_fitted_on_features_that_depend_on_the_batch(kind: type[Plain]) -> None:
    """Attacks on a CPU show images one by one, so that no check of the attack would see it."""
    says = "plain: features of an image depend on the other images of its batch; alone they differ by .*%"
    with pytest.raises(UserError, match=says):
        rp.fit_probe(kind(), "scenes", task="classification", train_limit=8, epochs=1)
    with pytest.raises(UserError, match=says):
        rp.evaluate(kind(), "scenes", "clean", tasks="depth", limit=2, head={"train_limit": 8, "epochs": 1})


@pytest.mark.parametrize("kind", [Plain, Draws])
def test_features_of_one_image_or_of_chance_are_none_of_that(kind: type[Plain]) -> None:
    assert rp.fit_probe(kind(), "scenes", task="classification", train_limit=8, epochs=1)


class AnswersNan(Plain):
    def features(self, images: Tensor) -> Features:
        return Features(*(part * torch.nan for part in super().features(images)))


def test_nan_is_not_said_to_depend_on_the_batch() -> None:
    with pytest.raises(UserError, match="NaN"):
        rp.evaluate(AnswersNan(), "scenes", "clean", tasks="depth", limit=2, head={"train_limit": 8, "epochs": 1})
