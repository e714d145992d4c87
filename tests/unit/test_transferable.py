"""What makes attacks transfer: momentum, input diversity and smoothed gradients, by the equations of their papers."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import robustprobe as rp
from robustprobe.attacks import Entries, PerImageRandom
from robustprobe.attacks._transferable import gaussian, input_diversity, translation_smoothing
from tests.digits import digits

RANDOM = PerImageRandom(0, ("a", "b", "c", "d"), "pgd")


def entries(count: int, run: int = 0) -> Entries:
    return Entries(torch.arange(count), torch.full((count,), run))


def attack(**options: object) -> Tensor:
    data = digits()
    given: dict[str, object] = {"eps": 0.1, "steps": 6, "task": "classification", **options}
    return rp.attack(data.model, data.images[:8], data.labels[:8], **given).adversarial  # type: ignore[arg-type]


@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_momentum_adds_gradients_of_unit_l1_norm(decay: float) -> None:
    data, eps, step = digits(), 0.1, 0.02
    images, labels = data.images[:8], data.labels[:8]
    current, velocity = images, torch.zeros_like(images)
    for _ in range(6):
        moved = current.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(data.model(moved), labels, reduction="sum"), moved)
        velocity = decay * velocity + gradient / gradient.abs().sum((1, 2, 3), keepdim=True)
        current = (images + (current + step * velocity.sign() - images).clamp(-eps, eps)).clamp(0, 1)
    found = attack(momentum=decay, step_size=step, random_start=False, iterate="last")
    assert torch.allclose(found, current, atol=1e-6)
    assert not torch.equal(found, attack(step_size=step, random_start=False, iterate="last"))


@pytest.mark.parametrize("side", [3, 5, 15])
def test_smoothing_is_a_convolution_with_a_gaussian(side: int) -> None:
    gradient = torch.randn(2, 3, 20, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    at = torch.linspace(-3, 3, side, dtype=torch.float64)
    kernel = torch.exp(-(at[:, None] ** 2 + at[None] ** 2) / 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, side, side)
    wanted = F.conv2d(gradient, kernel, padding=side // 2, groups=3)
    smooth = translation_smoothing(side)
    assert smooth is not None
    assert torch.allclose(smooth(gradient), wanted)


def test_no_kernel_is_no_smoothing() -> None:
    assert translation_smoothing(0) is None
    assert translation_smoothing(1) is None
    assert float(gaussian(15).sum()) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(20, 20), (30, 17)])
def test_diverse_images_are_smaller_and_padded_with_zeros(shape: tuple[int, int]) -> None:
    diverse = input_diversity(1.0, RANDOM)
    assert diverse is not None
    images = torch.ones(4, 3, *shape)
    sides = []
    for step in range(40):
        found = diverse(images, entries(4), step)
        assert found.shape == images.shape
        inside = found[:, 0] > 0.5
        sides += inside.any(1).sum(1).tolist()
        assert ((found < 1e-6) | (found > 1 - 1e-6)).all()
    assert min(sides) >= round(0.9 * shape[1])
    assert max(sides) <= shape[1]
    assert len(set(sides)) > 1


def test_diversity_follows_the_image_and_its_share() -> None:
    diverse = input_diversity(0.5, RANDOM)
    assert diverse is not None
    images = torch.rand(4, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    together = diverse(images, entries(4), 3)
    alone = diverse(images[2:3], Entries(torch.tensor([2]), torch.tensor([0])), 3)
    assert torch.equal(alone, together[2:3])
    assert not torch.equal(diverse(images, entries(4, run=1), 3), together)
    same = [torch.equal(diverse(images[:1], entries(1), step), images[:1]) for step in range(100)]
    assert 0.3 < sum(same) / 100 < 0.7


@pytest.mark.parametrize("options", [{"input_diversity": 0.5}, {"translation_kernel": 3}, {"momentum": 1.0}])
def test_the_best_iterate_is_that_of_the_image_itself(options: dict[str, float]) -> None:
    """An image counts as fooled where the model is, not where it would be on a resized image."""
    data = digits()
    found = attack(eps=0.15, steps=20, **options)
    plain = rp.attack(data.model, data.images[:8], data.labels[:8], task="classification", attack="noise", eps=0.15)
    correct = (data.model(found).argmax(1) == data.labels[:8]).sum()
    assert correct < plain.score.sum()
