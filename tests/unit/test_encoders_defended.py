"""Test-time defences before an encoder: plain attacks look weak on them, adapted ones do not."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from robustprobe import UserError, load_encoder
from robustprobe.attacks import Victim, load_attack
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.straight_through import straight_through
from robustprobe.encoders import Defended, Encoder
from robustprobe.encoders._input_defences import DEFENCES, InputDefence

pytestmark = pytest.mark.unit

IDS = [str(k) for k in range(4)]
IMAGES = (torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255).round() / 255
ZERO_GRADIENT, RANDOM = ("jpeg", "bit-depth", "dithering"), ("noise", "dithering", "views")


def made(name: str, images: Tensor) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        changed: Tensor = DEFENCES[name]()(images)
    return changed


def moved(encoder: Encoder, modules: tuple[str, ...]) -> float:
    """How far `embed` moves the mean of 16 embeddings."""
    victim = Victim(straight_through(encoder, dict.fromkeys(modules)))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        found = load_attack(AttackSpec(name="embed", eps=4 / 255, steps=8))(victim, IMAGES, IDS)
        both = [torch.stack([encoder(images).cls for _ in range(16)]).mean(0) for images in (found, IMAGES)]
        return float((both[0] - both[1]).square().sum(1).mean())


@pytest.mark.parametrize("name", DEFENCES)
def test_defended_encoders_have_the_shapes_and_a_name_and_digest_of_their_own(name: str) -> None:
    plain = load_encoder("bundled:scenes")
    encoder = load_encoder(f"defended:{name}:bundled:scenes")
    assert encoder.card.name == f"defended:{name}:bundled:scenes"
    assert encoder.digest not in {plain.digest, *(Defended(plain, other).digest for other in DEFENCES if other != name)}
    with torch.no_grad():
        found, expected = encoder(IMAGES), plain(IMAGES)
    assert [part.shape for part in found] == [part.shape for part in expected]
    assert not torch.equal(found.cls, expected.cls)


@pytest.mark.parametrize("name", DEFENCES)
def test_defences_keep_shape_and_box_and_are_random_or_not(name: str) -> None:
    defence = DEFENCES[name]()
    assert isinstance(defence, InputDefence)
    first, second = defence(IMAGES), defence(IMAGES)
    assert first.shape == IMAGES.shape
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first, second) is (name not in RANDOM)
    moving = IMAGES.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(made(name, moving).sum(), moving)
    assert bool((gradient == 0).all()) is (name in ZERO_GRADIENT)


def test_jpeg_is_that_of_pillow() -> None:
    file = io.BytesIO()
    whole = (IMAGES[0] * 255).round().to(torch.uint8)
    Image.fromarray(whole.permute(1, 2, 0).numpy()).save(file, "jpeg", quality=25)
    with Image.open(file) as read:
        expected = torch.from_numpy(np.array(read)).permute(2, 0, 1)
    torch.testing.assert_close(made("jpeg", IMAGES)[0] * 255, expected.float(), rtol=0, atol=1e-4)


def test_few_levels_are_kept() -> None:
    assert len(made("bit-depth", IMAGES).unique()) == 8
    assert len(made("dithering", IMAGES).unique()) == 4
    # Dithering keeps the mean: the error of one pixel is up to a third, of the mean of 12,288 a hundredth of that.
    assert abs(float((made("dithering", IMAGES) - IMAGES).mean())) < 0.01


@pytest.mark.parametrize("name", ZERO_GRADIENT)
def test_a_straight_through_gradient_finds_what_a_plain_one_does_not(name: str) -> None:
    encoder = Defended(load_encoder("bundled:scenes"), name).freeze()
    assert moved(encoder, ("defence",)) > 2 * moved(encoder, ())


def test_unknown_defences_and_missing_encoders_are_an_error() -> None:
    with pytest.raises(UserError, match="unknown test-time defence 'jpg'"):
        load_encoder("defended:jpg:bundled:scenes")
    with pytest.raises(UserError, match="names no encoder; write such as defended:jpeg:bundled:photos"):
        load_encoder("defended:jpeg")
    with pytest.raises(UserError, match="unknown bundled encoder"):
        load_encoder("defended:jpeg:bundled:nothing")
