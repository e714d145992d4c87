"""Every defence: finite losses, gradients for the student alone, attacks inside ball and box, image by image."""

import copy

import pytest
import torch
from torch import Tensor

from robustprobe.core.errors import UserError
from robustprobe.core.registry import defences
from robustprobe.core.threat import image_generator
from robustprobe.defences import Defence, LayerFeatures, linf
from robustprobe.defences.base import load_defence
from robustprobe.encoders import Encoder
from robustprobe.probing.surrogate_heads import fit_surrogate_heads

pytestmark = pytest.mark.contract

BALL = linf(8 / 255, 3)
NAMES = defences.names()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(4, 3, 16, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def student(tiny_encoder: Encoder) -> Encoder:
    found = copy.deepcopy(tiny_encoder)
    found.requires_grad_(True)
    return found


def ready(name: str, teacher: Encoder, images: Tensor, **changes: object) -> Defence:
    defence = load_defence(name, changes.pop("tokens", "both"), changes.pop("layers", (-1,)), changes)  # type: ignore[arg-type]
    defence.prepare(teacher, images, lambda size: fit_surrogate_heads(teacher, size, images.device))
    defence.redraw(0, image_generator(0, "", "redraw", 0))
    return defence


def generators(count: int) -> list[torch.Generator]:
    return [image_generator(0, str(position), "attack") for position in range(count)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokens", ["cls", "patch", "both"])
def test_loss_is_finite_and_reaches_the_student_alone(
    name: str, tokens: str, tiny_encoder: Encoder, student: Encoder, images: Tensor
) -> None:
    before = tiny_encoder.digest
    defence = ready(name, tiny_encoder, images, tokens=tokens)
    moved = defence.attack(student, tiny_encoder, images, generators(4), BALL)
    outcome = defence.loss(student, tiny_encoder, images, moved)
    assert outcome.loss.shape == (4,)
    assert all(fact.shape == (4,) for fact in outcome.facts.values())
    assert torch.isfinite(outcome.loss).all()
    outcome.loss.sum().backward()
    unmoved = [k for k, p in student.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert unmoved == []
    assert tiny_encoder.digest == before
    assert all(p.grad is None for p in tiny_encoder.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_attacked_images_stay_in_ball_and_box_and_weights_without_gradient(
    name: str, tiny_encoder: Encoder, student: Encoder, images: Tensor
) -> None:
    defence = ready(name, tiny_encoder, images)
    moved = defence.attack(student, tiny_encoder, images, generators(4), BALL)
    assert (moved - images).abs().max() <= BALL.threat.eps + 1e-6
    assert (moved - images).abs().max() > BALL.threat.eps / 2
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert not moved.requires_grad
    assert all(p.grad is None and p.requires_grad for p in student.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_at_eps_zero_the_attacked_term_is_that_of_clean_images(
    name: str, tiny_encoder: Encoder, student: Encoder, images: Tensor
) -> None:
    defence = ready(name, tiny_encoder, images)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    moved = defence.attack(student, tiny_encoder, images, generators(4), linf(0.0, 2))
    assert torch.equal(moved, images)
    with torch.no_grad():
        found = defence.loss(student, tiny_encoder, images, moved).loss
        own, clean = defence.look(student, images), defence.look(tiny_encoder, images)
        torch.testing.assert_close(found, defence.lowered(LayerFeatures(own, own, clean)).loss)


@pytest.mark.parametrize("name", NAMES)
def test_the_attack_raises_its_objective_and_is_the_same_one_by_one(
    name: str, tiny_encoder: Encoder, student: Encoder, images: Tensor
) -> None:
    defence = ready(name, tiny_encoder, images)

    def value(moved: Tensor) -> Tensor:
        with torch.no_grad():
            clean = defence.look(tiny_encoder, images)
            return defence.raised(defence.look(student, moved), clean, clean, 0.0)

    moved = defence.attack(student, tiny_encoder, images, generators(4), BALL)
    start = defence.attack(student, tiny_encoder, images, generators(4), linf(8 / 255, 0))
    assert (value(moved) > value(start)).all()
    alone = [
        defence.attack(student, tiny_encoder, images[i : i + 1], [generators(4)[i]], BALL) for i in range(len(images))
    ]
    assert ((torch.cat(alone) - moved).abs() > 1e-6).double().mean() < 0.02


@pytest.mark.parametrize("name", NAMES)
def test_unknown_options_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"unknown key nonsense"):
        load_defence(name, "cls", (-1,), {"nonsense": 1})
