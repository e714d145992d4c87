"""What the norms have of their own: noise, surface, nearest point, other sizes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from robustprobe.core.threat import L2, NORMS, Linf, image_generator

pytestmark = pytest.mark.unit


def random_perturbation(seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def l2_noise(count: int, shape: tuple[int, int, int], eps: float) -> Tensor:
    generators = [image_generator(0, str(i)) for i in range(count)]
    return L2(eps).noise(torch.zeros(count, *shape), generators)


def test_l2_noise_is_inside_the_ball() -> None:
    noise = l2_noise(500, (3, 4, 4), 0.7)
    assert (L2(0.7).size(noise) <= 0.7 * (1 + 1e-6)).all()


@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 1, 1), (3, 4, 4)])
def test_l2_noise_is_spread_evenly_over_the_volume(shape: tuple[int, int, int]) -> None:
    """The share of the volume inside a point's radius, (r / eps)^d, is then uniform in [0, 1]."""
    count, dimensions = 2000, shape[0] * shape[1] * shape[2]
    share = (L2(0.7).size(l2_noise(count, shape, 0.7).double()) / 0.7) ** dimensions
    even = (torch.arange(count) + 0.5) / count
    # Kolmogorov and Smirnov: 1.63 / sqrt(n) holds 99 in 100 times; the draws are fixed.
    assert (share.sort().values - even).abs().max() < 1.63 / count**0.5


def test_l2_noise_has_no_favourite_direction() -> None:
    noise = l2_noise(2000, (1, 1, 2), 1.0)
    # Standard error of the mean: 0.5 / sqrt(2000) = 0.011.
    assert noise.mean(0).abs().max() < 0.04
    quadrants = torch.stack([(noise[:, 0, 0, 0] > 0) == a for a in (True, False)]).float().mean(1)
    torch.testing.assert_close(quadrants, torch.full((2,), 0.5), rtol=0, atol=0.04)


@pytest.mark.parametrize("norm", NORMS)
@given(seed=st.integers(0, 1000), eps=st.floats(1e-3, 10), scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e3]))
def test_stretch_reaches_the_surface_and_keeps_the_direction(norm: str, seed: int, eps: float, scale: float) -> None:
    threat, perturbation = NORMS[norm](eps), random_perturbation(seed, scale)
    found = threat.stretch(perturbation)
    torch.testing.assert_close(threat.size(found), torch.full((3,), eps), rtol=1e-5, atol=0)
    feature_rank = [x.flatten(1) / x.flatten(1).abs().amax(1, keepdim=True) for x in (found, perturbation)]
    torch.testing.assert_close(*feature_rank)


@pytest.mark.parametrize("norm", NORMS)
def test_stretch_of_nothing_is_nothing(norm: str) -> None:
    nothing = torch.zeros(2, 3, 4, 4)
    assert torch.equal(NORMS[norm](0.5).stretch(nothing), nothing)


def test_linf_clip_cuts_both_ends_and_leaves_the_rest() -> None:
    moved = torch.tensor([-0.3, -0.1, 0.0, 0.1, 0.3]).reshape(1, 1, 1, 5)
    assert torch.equal(Linf(0.2).clip(moved).flatten(), torch.tensor([-0.2, -0.1, 0.0, 0.1, 0.2]))


@given(seed=st.integers(0, 1000), eps=st.floats(1e-3, 10), scale=st.floats(1e-3, 100))
def test_l2_clip_shortens_what_is_outside_and_leaves_the_rest(seed: int, eps: float, scale: float) -> None:
    threat, perturbation = L2(eps), random_perturbation(seed, scale)
    found, outside = threat.clip(perturbation), threat.size(perturbation) > eps
    assert (threat.size(found) <= eps).all()
    assert torch.equal(found[~outside], perturbation[~outside])
    nearest = perturbation / threat.size(perturbation)[:, None, None, None] * eps
    torch.testing.assert_close(found[outside], nearest[outside])


@given(seed=st.integers(0, 1000))
def test_no_point_of_the_l2_ball_is_nearer_than_the_clipped_one(seed: int) -> None:
    threat, perturbation = L2(1.0), random_perturbation(seed)
    clipped = threat.size(perturbation - threat.clip(perturbation))
    other = threat.clip(random_perturbation(seed + 5000, 0.2))
    assert (clipped <= threat.size(perturbation - other) + 1e-5).all()


@pytest.mark.parametrize("norm", NORMS)
def test_resized_is_the_same_threat_with_another_ball(norm: str) -> None:
    threat = NORMS[norm](0.2)
    larger = threat.resized(1.5)
    assert type(larger) is type(threat)
    assert larger.eps == pytest.approx(0.3)
    assert threat.eps == 0.2
    moved = random_perturbation(0)
    torch.testing.assert_close(larger.size(larger.stretch(moved)), torch.full((3,), 0.3))


def test_l2_ascent_has_the_length_of_the_step_though_the_gradient_is_tiny() -> None:
    images, sizes = torch.zeros(3, 3, 4, 4), torch.tensor([0.1, 0.2, 0.4])[:, None, None, None]
    moved = L2(1).ascend(images, random_perturbation(0, 1e-30), sizes)
    torch.testing.assert_close(L2(1).size(moved), sizes.flatten())


def test_linf_ascent_moves_every_value_by_the_step_but_where_the_gradient_is_0() -> None:
    gradient = torch.tensor([1e-30, -5.0, 0.0]).reshape(1, 3, 1, 1)
    moved = Linf(1).ascend(torch.full((1, 3, 1, 1), 0.5), gradient, 0.25)
    assert moved.flatten().tolist() == [0.75, 0.25, 0.5]


@pytest.mark.parametrize("norm", NORMS)
def test_sizes_are_those_of_numpy(norm: str) -> None:
    perturbation = random_perturbation(1)
    order = {"linf": float("inf"), "l2": 2, "l1": 1}[norm]
    expected = torch.linalg.vector_norm(perturbation.flatten(1), ord=order, dim=1)
    torch.testing.assert_close(NORMS[norm](1).size(perturbation), expected)
