"""Moves of the threat model: projection, rounding, random streams."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustprobe.core.threat import Linf, image_generator, towards

pytestmark = pytest.mark.unit


def test_projection_is_the_nearest_point_of_ball_and_box() -> None:
    images = torch.tensor([0.0, 0.5, 1.0, 0.5]).reshape(1, 1, 2, 2)
    moved = torch.tensor([-0.5, 0.9, 1.5, 0.55]).reshape(1, 1, 2, 2)
    found = Linf(0.125).project(moved, images)
    torch.testing.assert_close(found.flatten(), torch.tensor([0.0, 0.625, 1.0, 0.55]))


def test_size_is_the_largest_change_of_each_image() -> None:
    delta = torch.tensor([[0.1, -0.3], [0.0, 0.2]]).reshape(2, 1, 1, 2)
    torch.testing.assert_close(Linf(1).size(delta), torch.tensor([0.3, 0.2]))


def test_noise_fills_the_ball() -> None:
    images = torch.zeros(1, 3, 64, 64)
    noise = Linf(0.1).noise(images, [image_generator(0, "a")])
    assert noise.abs().max() <= 0.1
    assert noise.min() < -0.099
    assert noise.max() > 0.099
    # Standard error of the mean of 12288 draws: 0.1 / sqrt(3 * 12288) = 0.0005.
    assert abs(float(noise.mean())) < 0.002


def test_stream_depends_on_seed_id_and_purpose_only() -> None:
    def draw(*name: object) -> float:
        return float(torch.rand(1, generator=image_generator(*name)))  # type: ignore[arg-type]

    names = [(0, "a", "pgd"), (1, "a", "pgd"), (0, "b", "pgd"), (0, "a", "embed"), (0, "a"), (0, "a", "pgd", 1)]
    randomness = [draw(*name) for name in names]
    assert len(set(randomness)) == len(names)
    assert [draw(*name) for name in names] == randomness


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@given(value=st.floats(0, 1), goal=st.floats(0, 1))
def test_towards_moves_and_does_not_pass_the_goal(dtype: torch.dtype, value: float, goal: float) -> None:
    start, end = torch.tensor([value]).to(dtype), torch.tensor([goal]).to(dtype)
    found = towards(start, end)
    assert found.dtype == dtype
    assert (start.double() - end.double()).sign() * (found.double() - end.double()) >= 0
    assert torch.equal(found, start) is torch.equal(start, end)


@given(seed=st.integers(0, 10_000), dtype=st.sampled_from([torch.float16, torch.bfloat16]), eps=st.floats(0, 1))
def test_cast_to_half_precision_stays_in_the_ball(seed: int, dtype: torch.dtype, eps: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(1, 3, 8, 8, generator=generator).to(dtype)
    adversarial = Linf(eps).project(torch.rand(1, 3, 8, 8, generator=generator), images.float())
    found = Linf(eps).cast(adversarial, images)
    moved = (found.double() - images.double()).abs()
    assert (moved <= (adversarial.double() - images.double()).abs()).all()
