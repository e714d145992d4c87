"""Attacks against closed forms, brute force and an independent implementation."""

import itertools

import pytest
import torch
from torch import Tensor, nn

import robustprobe as rp
from robustprobe.attacks import Victim, load_attack
from robustprobe.spec import AttackSpec

pytestmark = pytest.mark.golden

# A power of two, with images on multiples of a smaller one: `image + eps` is then exact in float32.
EPS = 2**-5


def test_one_large_step_on_a_linear_model_reaches_the_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 48, generator=generator) * 0.1
    images = torch.randint(64, 192, (5, 3, 4, 4), generator=generator) / 256
    labels = torch.tensor([0, 1, 0, 1, 0])
    sign = torch.where(labels == 0, 1, -1)

    def margin(x: Tensor) -> Tensor:
        logits = x.flatten(1) @ weights.T
        return sign * (logits[:, 0] - logits[:, 1])

    found = rp.attack(
        lambda x: x.flatten(1) @ weights.T,
        images,
        labels,
        task="classification",
        attack="pgd",
        eps=EPS,
        steps=1,
        step_size=2 * EPS,
    ).adversarial
    assert torch.equal((found - images).abs(), torch.full_like(images, EPS))
    optimum = EPS * (weights[0] - weights[1]).abs().sum()
    torch.testing.assert_close(margin(images) - margin(found), optimum.expand(5), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_embed_attack_on_a_linear_embedding_comes_near_the_brute_force_optimum(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(6, 9, generator=generator)
    images = torch.full((16, 3, 1, 3), 0.5)
    # A convex function has its maximum over a box at a corner.
    corners = torch.tensor(list(itertools.product((-EPS, EPS), repeat=9)))
    optimum = float((corners @ weights.T).square().sum(1).max())
    distance = rp.attack(lambda x: x.flatten(1) @ weights.T, images, attack="embed", eps=EPS, seed=seed).score
    assert float(distance.max()) <= optimum * (1 + 1e-5)
    # It has several local maxima: a single start may end in a poor one, the best of 16 starts does not.
    assert float(distance.max()) >= 0.9 * optimum


def plain_pgd(model: nn.Module, images: Tensor, labels: Tensor, start: Tensor, spec: AttackSpec) -> Tensor:
    """Madry et al. 2018 as every textbook writes it, last iterate."""
    adversarial = start.clone()
    for _ in range(spec.steps):
        adversarial.requires_grad_(True)
        loss = nn.functional.cross_entropy(model(adversarial), labels, reduction="sum")
        loss.backward()
        assert adversarial.grad is not None
        step = adversarial.detach() + spec.step_size * adversarial.grad.sign()
        delta = torch.clamp(step - images, min=-spec.eps, max=spec.eps)
        adversarial = torch.clamp(images + delta, min=0, max=1).detach()
    return adversarial


@pytest.mark.parametrize("random_start", [True, False])
def test_pgd_equals_a_plain_implementation_bit_for_bit(random_start: bool) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(512, 5)).eval()
        images, labels = torch.rand(8, 3, 8, 8), torch.randint(0, 5, (8,))
    ids = [str(i) for i in range(8)]
    spec = AttackSpec(name="pgd", eps=8 / 255, steps=7, iterate="last", random_start=random_start)
    attack = load_attack(spec)
    start = attack._start(images, ids)
    assert torch.equal(start, images) is not random_start
    expected = plain_pgd(model, images, labels, start, spec)
    assert torch.equal(attack(Victim(model, labels), images, ids), expected)
    assert not torch.equal(expected, start)
