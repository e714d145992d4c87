"""Attacks against every point of the ball: images of two pixels, whose three channels the models read as one."""

from typing import Literal, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import robustprobe as rp
from robustprobe.attacks import Victim, load_attack
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.threat import NORMS
from robustprobe.core.types import AttackLosses, LabelSpace, LossContext
from robustprobe.tasks import load_task

pytestmark = pytest.mark.golden

Norm = Literal["linf", "l2"]

COUNT = 16
EPS: dict[Norm, float] = {"linf": 0.2, "l2": 0.4}
SIDE = 101
SPACE = LabelSpace(classes=("a", "b", "c", "d"), min_depth=0.0, max_depth=float("inf"))


class Grey(nn.Module):
    """A smooth network on the mean channel of 1 x 2 pixels; what it says is curved inside the ball, not linear."""

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task = task
        self.hidden = nn.Linear(2, 16)
        self.last = nn.Linear(16, {"classification": 4, "segmentation": 8, "depth": 2}[task])
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel())).mul_(3)

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.last(torch.tanh(self.hidden(images.mean(1).flatten(1) - 0.5)))
        if self.task == "segmentation":
            return answer.reshape(-1, 4, 1, 2)
        return 0.5 + nn.functional.softplus(answer / 3)[:, None] if self.task == "depth" else answer


class Case(NamedTuple):
    """A model, images (16, 3, 1, 2), the labels it gives them (a little off, for depth), and how it is attacked."""

    model: Grey
    images: Tensor
    labels: Tensor
    attack_losses: AttackLosses

    def measure(self, name: str, images: Tensor, labels: Tensor) -> Tensor:
        loss = self.attack_losses.damage if name == "harm" else self.attack_losses.losses[name]
        with torch.no_grad():
            return loss(self.model(images), LossContext(labels, SPACE)).double()


def case(task: str, norm: Norm) -> Case:
    model = Grey(task).eval().requires_grad_(False)
    images = torch.rand(COUNT, 3, 1, 2, generator=torch.Generator().manual_seed(1))
    # Where the box cuts an L2 ball, channels that may not move leave their share to the others.
    images = 0.3 + 0.4 * images if norm == "l2" else images
    output = model(images)
    labels = output * 1.05 if task == "depth" else output.argmax(1)
    return Case(model, images, labels, load_task(task, SPACE).attack_losses)


def grid(norm: Norm) -> Tensor:
    """Perturbations (n, 3, 1, 2) all over the ball, the same in all channels: no others do more to a mean channel."""
    eps = EPS[norm] if norm == "linf" else EPS[norm] / 3**0.5
    axis = torch.linspace(-eps, eps, SIDE)
    points = torch.cartesian_prod(axis, axis)
    if norm == "l2":
        angle = torch.linspace(0, 2 * torch.pi, 2000)
        rim = eps * torch.stack([angle.cos(), angle.sin()], 1)
        points = torch.cat([points[points.norm(dim=1) <= eps], rim])
    return points[:, None, None, :].expand(-1, 3, 1, 2)


def optimum(case: Case, name: str, norm: Norm) -> Tensor:
    """Most of a loss that any point of the ball has, (16,)."""
    best = []
    for image, label in zip(case.images, case.labels, strict=True):
        points = (image + grid(norm)).clamp(0, 1)
        best.append(case.measure(name, points, label.expand(len(points), *label.shape)).max())
    return torch.stack(best)


def reached(case: Case, attack: str, name: str, norm: Norm, restarts: int = 4) -> Tensor:
    spec = AttackSpec(name=attack, eps=EPS[norm], norm=norm, steps=40, restarts=restarts)
    victim = Victim(case.model, case.labels, SPACE, case.attack_losses, case.model.task)
    found = load_attack(spec)(victim, case.images, [str(i) for i in range(COUNT)])
    assert (NORMS[norm](EPS[norm]).size(found - case.images) <= EPS[norm] * (1 + 1e-6)).all()
    return case.measure(name, found, case.labels)


def shares(task: str, attack: str, norm: Norm) -> Tensor:
    """How much of the way from the clean image to the optimum each image was moved, (16,)."""
    it = case(task, norm)
    clean, best = it.measure("harm", it.images, it.labels), optimum(it, "harm", norm)
    assert (best > clean).all()
    return (reached(it, attack, "harm", norm) - clean) / (best - clean)


FINDS_ALL = [
    ("segmentation", "sea"),
    ("segmentation", "ensemble"),
    ("depth", "ensemble"),
]
# One loss may end in local maxima alone, or fool one pixel less than another would.
FINDS_MOST = [
    ("classification", "pgd"),
    ("classification", "apgd"),
    ("segmentation", "segpgd"),
    ("segmentation", "cospgd"),
    ("segmentation", "apgd"),
    ("depth", "depthpgd"),
    ("depth", "depthpgd:rmse"),
    ("depth", "apgd:rmse"),
]


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize(("task", "attack"), FINDS_ALL)
def test_attack_reaches_the_optimum_of_every_image(task: str, attack: str, norm: Norm) -> None:
    found = shares(task, attack, norm)
    assert (found > 0.98).all()
    # The grid misses the optimum by less than this.
    assert (found < 1 + 1e-4).all()


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize(("task", "attack"), FINDS_MOST)
def test_attack_reaches_the_optimum_of_three_in_four_images(task: str, attack: str, norm: Norm) -> None:
    found = shares(task, attack, norm)
    assert (found > 0.98).double().mean() >= 0.75
    assert (found < 1 + 1e-4).all()


@pytest.mark.parametrize("norm", EPS)
def test_worst_fools_a_classifier_wherever_a_point_of_the_ball_does(norm: Norm) -> None:
    it = case("classification", norm)
    possible = optimum(it, "harm", norm) >= 1
    assert 0 < int(possible.sum()) < COUNT
    assert torch.equal(reached(it, "ensemble", "harm", norm, restarts=1) >= 1, possible)


@pytest.mark.parametrize("attack", ["depthpgd", "apgd"])
@pytest.mark.parametrize("direction", ["farther", "nearer"])
def test_linear_depth_is_moved_to_the_corner_of_the_ball(attack: str, direction: str) -> None:
    """Each depth is linear in its own pixel: mean log depth has its optimum where every channel moves by its sign."""
    eps, generator = 2**-5, torch.Generator().manual_seed(0)
    weights = torch.tensor([1.0, -2.0, 0.5])[:, None, None]
    images = torch.randint(64, 192, (5, 3, 4, 4), generator=generator) / 256

    def model(x: Tensor) -> Tensor:
        return 4 + (weights * x).sum(1)

    away = 1 if direction == "farther" else -1
    # Labels on the other side, so that the error grows the same way.
    labels = model(images) * (0.5 if direction == "farther" else 2.0)
    found = rp.attack(
        model, images, labels, attack=attack, objective=direction, eps=eps, task="depth", steps=20
    ).adversarial
    assert torch.equal(found, images + away * eps * weights.sign())


@pytest.mark.parametrize("seed", range(5))
def test_embedding_under_l2_moves_along_the_first_singular_vector(seed: int) -> None:
    """The optimum of |A d|^2 over |d| <= eps is eps^2 sigma^2; steps much longer than eps are power iteration."""
    eps, generator = 0.1, torch.Generator().manual_seed(seed)
    weights = torch.randn(6, 27, generator=generator)
    images = torch.full((4, 3, 3, 3), 0.5)
    found = rp.attack(
        lambda x: x.flatten(1) @ weights.T, images, attack="embed", norm="l2", eps=eps, step_size=10.0, steps=100
    )
    _, values, vectors = torch.linalg.svd(weights)
    optimum = eps**2 * float(values[0]) ** 2
    torch.testing.assert_close(found.score, torch.full((4,), optimum), rtol=1e-3, atol=0)
    assert (found.score <= optimum * (1 + 1e-5)).all()
    along = ((found.adversarial - images).flatten(1) @ vectors[0]).abs()
    torch.testing.assert_close(along, torch.full((4,), eps), rtol=1e-2, atol=0)
