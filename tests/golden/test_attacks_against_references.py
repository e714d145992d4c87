"""Attacks against closed forms, brute force and an independent implementation."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import robustprobe as rp
from robustprobe.attacks import Victim, load_attack
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.threat import image_generator
from robustprobe.core.types import LabelSpace
from robustprobe.tasks import load_task

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


def plain_pgd(loss_of: Callable[[Tensor, int], Tensor], images: Tensor, start: Tensor, spec: AttackSpec) -> Tensor:
    """Madry et al. 2018 as every textbook writes it, last iterate; `loss_of` takes images and t = 1..T."""
    adversarial = start.clone()
    for t in range(1, spec.steps + 1):
        adversarial.requires_grad_(True)
        loss_of(adversarial, t).backward()
        assert adversarial.grad is not None
        step = adversarial.detach() + spec.step_size * adversarial.grad.sign()
        delta = torch.clamp(step - images, min=-spec.eps, max=spec.eps)
        adversarial = torch.clamp(images + delta, min=0, max=1).detach()
    return adversarial


STEPS = 7
IDS = [str(i) for i in range(8)]


def classification() -> tuple[nn.Module, Tensor, Callable[[Tensor, Tensor, int], Tensor]]:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(512, 5))

    def loss(logits: Tensor, labels: Tensor, t: int) -> Tensor:
        return nn.functional.cross_entropy(logits, labels, reduction="sum")

    return model, torch.randint(0, 5, (8,)), loss


def segmentation() -> tuple[nn.Module, Tensor, Callable[[Tensor, Tensor, int], Tensor]]:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 4, 3, padding=1))

    def loss(logits: Tensor, labels: Tensor, t: int) -> Tensor:
        """SegPGD, Gu et al. 2022, eq. 4: correct and wrong pixels apart, then joined by lambda."""
        chance = logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
        correct = logits.argmax(1) == labels
        share = (t - 1) / (2 * STEPS)
        return -(1 - share) * chance[correct].sum() - share * chance[~correct].sum()

    return model, torch.randint(0, 4, (8, 8, 8)), loss


def depth() -> tuple[nn.Module, Tensor, Callable[[Tensor, Tensor, int], Tensor]]:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 1, 3, padding=1), nn.Softplus())

    def loss(metres: Tensor, labels: Tensor, t: int) -> Tensor:
        g = (metres.log() - labels.log()).flatten(1)
        return (g.var(1, correction=0) + 0.15 * g.mean(1) ** 2).sqrt().sum()

    return nn.Sequential(model, nn.Flatten(1, 2)), torch.rand(8, 8, 8) + 0.5, loss


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize(("name", "case"), [("pgd", classification), ("segpgd", segmentation), ("depthpgd", depth)])
def test_attack_equals_a_plain_implementation_bit_for_bit(
    name: str,
    case: Callable[[], tuple[nn.Module, Tensor, Callable[[Tensor, Tensor, int], Tensor]]],
    random_start: bool,
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, targets, loss = case()
        images = torch.rand(8, 3, 8, 8)
    spec = AttackSpec(name=name, eps=8 / 255, steps=STEPS, iterate="last", random_start=random_start)
    start = images
    if random_start:
        randomness = [image_generator(spec.seed, i, f"{name}/", 0) for i in IDS]
        start = (images + torch.stack([torch.rand(3, 8, 8, generator=g) * 2 - 1 for g in randomness]) * spec.eps).clamp(
            0, 1
        )
    assert torch.equal(start, images) is not random_start
    expected = plain_pgd(lambda x, t: loss(model(x), targets, t), images, start, spec)
    task = load_task(case.__name__, LabelSpace(classes=("a", "b", "c", "d", "e")))
    victim = Victim(model, targets, task.space, task.attack_losses, task.name)
    assert torch.equal(load_attack(spec)(victim, images, IDS), expected)
    assert not torch.equal(expected, start)


def test_image_once_fooled_stays_fooled_though_a_later_iterate_has_more_loss() -> None:
    """With three classes, a correct answer among equals has more loss than a narrowly wrong one."""
    narrowly_wrong, narrowly_right = torch.tensor([0.0, 0.1, -20.0]), torch.tensor([0.1, 0.0, 0.0])
    shown: list[Tensor] = []

    def model(images: Tensor) -> Tensor:
        shown.append(images.detach().clone())
        logits = narrowly_wrong if len(shown) == 2 else narrowly_right
        return logits + 1e-6 * images.sum((1, 2, 3))[:, None] * torch.tensor([0.0, 1.0, 2.0])

    spec = AttackSpec(name="pgd", steps=4)
    task = load_task("classification", LabelSpace(classes=("a", "b", "c")))
    victim = Victim(model, torch.tensor([0]), task.space, task.attack_losses)
    found = load_attack(spec)(victim, torch.full((1, 3, 2, 2), 0.5), ["a"])
    assert torch.equal(found, shown[1])
    assert not any(torch.equal(found, other) for other in (shown[0], *shown[2:]))
