"""The L1 ball cut by the box: its nearest points, its noise, sparse steps, and Auto-PGD among them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import robustprobe as rp
from robustprobe.attacks import load_attack
from robustprobe.attacks._apgd import apgd
from robustprobe.attacks._search import Entries, LossValues, PerImageRandom, Search, everything
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.eps import default_eps
from robustprobe.core.errors import UserError
from robustprobe.core.threat import L1, image_generator
from tests.digits import Digits, digits

pytestmark = pytest.mark.unit

EPS = 8.0
AWKWARD = {
    "ties": ([0.5] * 6, [0.9, 0.9, 0.1, 0.1, 0.5, 0.5]),
    "corners": ([0.0, 1.0, 0.0, 1.0, 0.0, 1.0], [-1.0, 2.0, 0.7, 0.2, 0.0, 1.0]),
    "far outside": ([0.2, 0.9, 0.5, 0.5, 0.0, 1.0], [1e4, -1e4, 0.5, 3.0, -2.0, 0.5]),
    "inside": ([0.5] * 6, [0.5, 0.51, 0.49, 0.5, 0.5, 0.5]),
    "one value": ([0.5] * 6, [0.5, 0.5, 0.5, 7.0, 0.5, 0.5]),
    "box alone": ([0.99] * 6, [2.0] * 6),
}


def by_bisection(moved: list[float], image: list[float], eps: float) -> Tensor:
    """The nearest point by its optimality conditions: every change shrinks by the same t, cut at the box."""
    x, change = torch.tensor(image).double(), (torch.tensor(moved) - torch.tensor(image)).double()

    def at(t: float) -> Tensor:
        return (x + change.sign() * (change.abs() - t).clamp(min=0)).clamp(0, 1)

    low, high = 0.0, float(change.abs().max())
    if (at(0) - x).abs().sum() <= eps:
        return at(0)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (at(middle) - x).abs().sum() > eps else (low, middle)
    return at(high)


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("eps", [1e-3, 0.05, 0.3, 1.0, 5.0])
def test_projection_of_awkward_images_is_the_nearest_point(name: str, eps: float) -> None:
    image, moved = AWKWARD[name]
    shape = (1, 3, 1, 2)
    found = L1(eps).project(torch.tensor(moved).reshape(shape), torch.tensor(image).reshape(shape))
    torch.testing.assert_close(
        found.flatten().double(), by_bisection(moved, image, eps), rtol=0, atol=1e-6 + 1e-6 * eps
    )


@given(seed=st.integers(0, 1000), eps=st.floats(1e-3, 60), scale=st.sampled_from([1e-3, 0.1, 1.0, 100.0]))
def test_no_point_of_ball_and_box_is_nearer_than_the_projection(seed: int, eps: float, scale: float) -> None:
    """The condition of a projection on a convex set: (y - p) . (z - p) <= 0 for every z of it."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    moved = images + scale * torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    threat = L1(eps)
    nearest = threat.project(moved, images)
    other = (images + threat.noise(images, [image_generator(seed, str(i)) for i in range(2)])).clamp(0, 1)
    corner = images.clone()
    corner[:, 0, 0, 0] += ((moved - images)[:, 0, 0, 0].sign() * eps).clamp(-1, 1)
    for inside in (other, corner.clamp(0, 1), images):
        angle = ((moved - nearest) * (inside - nearest)).flatten(1).sum(1)
        assert (angle <= 1e-9 * (1 + (moved - nearest).abs().flatten(1).sum(1))).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.3, 12.0, 587.3])
def test_rounding_does_not_leave_the_ball(dtype: torch.dtype, eps: float) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 64, 64, generator=generator, dtype=dtype)
    moved = images + torch.randn(2, 3, 64, 64, generator=generator, dtype=dtype)
    found = L1(eps).project(moved, images)
    sums = (found.double() - images.double()).abs().flatten(1).sum(1)
    assert (sums <= eps).all()
    assert (sums >= eps * (1 - 1e-5)).all()
    assert found.min() >= 0
    assert found.max() <= 1
    assert (L1(eps).size(found - images) <= eps).all()


def test_noise_is_spread_evenly_over_the_volume() -> None:
    """The share of the volume inside a point's radius, (r / eps)^d, is then uniform in [0, 1], and signs are even."""
    count = 2000
    generators = [image_generator(0, str(i)) for i in range(count)]
    noise = L1(0.7).noise(torch.zeros(count, 3, 1, 2, dtype=torch.float64), generators)
    share = (L1(0.7).size(noise) / 0.7) ** 6
    even = (torch.arange(count) + 0.5) / count
    # Kolmogorov and Smirnov: 1.63 / sqrt(n) holds 99 in 100 times; the draws are fixed.
    assert (share.sort().values - even).abs().max() < 1.63 / count**0.5
    assert ((noise > 0).double().mean(0) - 0.5).abs().max() < 0.05


def test_sparse_step_moves_the_largest_values_and_has_the_length_of_the_step() -> None:
    images, gradient = torch.full((2, 3, 2, 2), 0.5), torch.arange(1.0, 25.0).reshape(2, 3, 2, 2)
    gradient[1, 2] = 0
    moved = L1(1).ascend_sparse(images, gradient, 0.3, torch.tensor([0.25, 1.0])) - images
    torch.testing.assert_close(moved[0].flatten(), torch.tensor([0.0] * 9 + [0.1] * 3))
    torch.testing.assert_close(moved[1].flatten(), torch.tensor([0.3 / 8] * 8 + [0.0] * 4))


def test_a_step_without_a_gradient_stays() -> None:
    images = torch.full((1, 3, 2, 2), 0.5)
    assert torch.equal(L1(1).ascend(images, torch.zeros(1, 3, 2, 2), 0.3), images)


def test_ascent_takes_the_steepest_values_to_the_end_of_the_box_until_the_step_is_spent() -> None:
    images = torch.tensor([0.9, 0.2, 0.5, 0.5, 1.0, 0.0]).reshape(1, 3, 1, 2).repeat(2, 1, 1, 1)
    gradient = torch.tensor([3.0, -2.0, 1.0, 0.0, 9.0, -9.0]).reshape(1, 3, 1, 2).repeat(2, 1, 1, 1)
    moved = L1(1).ascend(images, gradient, torch.tensor([0.5, 9.0])[:, None, None, None])
    torch.testing.assert_close(moved[0].flatten(), torch.tensor([1.0, 0.0, 0.7, 0.5, 1.0, 0.0]))
    torch.testing.assert_close(moved[1].flatten(), torch.tensor([1.0, 0.0, 1.0, 0.5, 1.0, 0.0]))


def _sign_pgd(case: Digits, steps: int) -> int:
    """PGD along the sign of the gradient, which suits Linf, projected as exactly: how many images it leaves right."""
    threat, x = L1(EPS), case.images
    right = torch.ones(len(x), dtype=torch.bool)
    for _ in range(steps):
        moving = x.clone().requires_grad_(True)
        logits = case.model(moving)
        right &= logits.argmax(1) == case.labels
        loss = torch.nn.functional.cross_entropy(logits, case.labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, moving)
        x = threat.project(x + EPS / 4 * gradient.sign() / gradient[0].numel(), case.images)
    return int((right & (case.model(x).argmax(1) == case.labels)).sum())


def test_apgd_and_pgd_follow_few_values_and_are_stronger_than_dense_steps_and_noise() -> None:
    case = digits()
    case = case._replace(images=case.images[:200], labels=case.labels[:200])

    def kept(attack: str) -> int:
        given = {"attack": attack, "eps": EPS, "norm": "l1", "task": "classification"}
        options = {} if attack == "noise" else {"steps": 20}
        found = rp.attack(case.model, case.images, case.labels, **given, **options)  # type: ignore[arg-type]
        assert (L1(EPS).size(found.adversarial - case.images) <= EPS).all()
        return int(found.score.sum())

    sparse, steepest, dense, noise = kept("apgd"), kept("pgd"), _sign_pgd(case, 20), kept("noise")
    assert sparse <= steepest + 2
    assert steepest < dense - 20
    assert dense < noise


@pytest.mark.parametrize("attack", ["universal", "universal-task"])
def test_what_does_not_take_l1_says_so(attack: str) -> None:
    with pytest.raises(UserError, match=f"attack {attack} takes the norm l2 or linf; it got l1"):
        load_attack(AttackSpec(name=attack, norm="l1", eps=12))


def test_apgd_finds_the_best_corner_of_a_linear_loss() -> None:
    """A linear loss over ball and box is greatest where the largest weights are followed to the end of the box."""
    weights = torch.randn(48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss(x: Tensor, entries: Entries, progress: float) -> LossValues:
        value = x.flatten(1) @ weights
        return LossValues(value, value, value, torch.zeros(len(x), dtype=torch.bool))

    randomness = PerImageRandom(0, ("a", "b", "c"), "test")
    found = apgd(Search(L1(2.0), loss, 100, 0.5), images, everything(images), randomness, None)
    flat = images.flatten(1)
    room = torch.where(weights > 0, 1 - flat, flat)
    order = weights.abs().argsort(descending=True)
    before = room[:, order].cumsum(1) - room[:, order]
    spent = torch.minimum(room[:, order], (2.0 - before).clamp(min=0))
    best = flat @ weights + spent @ weights.abs()[order]
    assert (found.damage <= best + 1e-9).all()
    assert (found.damage >= best - 0.02 * (best - flat @ weights)).all()


@pytest.mark.parametrize("attack", ["noise", "pgd", "apgd", "square", "ensemble", "min-eps"])
def test_attacks_of_a_classifier_take_l1_and_stay_in_the_ball(attack: str) -> None:
    case = digits()
    images, labels = case.images[:8], case.labels[:8]
    eps = default_eps("l1", (12, 12))
    options = {} if attack == "noise" else {"steps": 6}
    found = rp.attack(case.model, images, labels, attack=attack, norm="l1", task="classification", **options)  # type: ignore[arg-type]
    size = L1(eps).size(found.adversarial - images)
    assert (size <= eps).all()
    assert size.max() > 0
