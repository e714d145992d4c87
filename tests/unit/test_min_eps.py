"""The smallest eps that breaks an image, against the closed form of a linear classifier."""

import pytest
import torch
from torch import Tensor

import robustprobe as rp
from robustprobe.attacks.min_eps import LEVELS

pytestmark = pytest.mark.unit


def case() -> tuple[Tensor, Tensor, Tensor]:
    """Weights (2, P), grey images far from the ends of the box, and labels, some of them wrong from the start."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 48, generator=generator)
    images = 0.5 + 0.05 * torch.randn(24, 3, 4, 4, generator=generator)
    labels = (images.flatten(1) @ weights.T).argmax(1)
    labels[:4] = 1 - labels[:4]
    return weights, images.clamp(0.3, 0.7), labels


@pytest.mark.parametrize(("norm", "order"), [("linf", 1), ("l2", 2)])
def test_linear_classifier_breaks_where_its_margin_ends(norm: str, order: int) -> None:
    weights, images, labels = case()

    def model(x: Tensor) -> Tensor:
        return x.flatten(1) @ weights.T

    logits, difference = model(images), weights[0] - weights[1]
    margin = torch.where(labels == 0, 1, -1) * (logits[:, 0] - logits[:, 1])
    exact = (margin / torch.linalg.vector_norm(difference, order)).clamp(min=0)
    largest = float(exact.quantile(0.7))
    found = rp.minimal_eps(model, images, labels, eps=largest, norm=norm)  # type: ignore[arg-type]
    assert (found[:4] == 0).all()
    survives = exact > largest
    assert torch.equal(found.isinf(), survives)
    assert (found[~survives] >= exact[~survives] - 1e-6).all()
    assert (found[~survives] <= exact[~survives] + 1.001 * largest / LEVELS + 1e-6).all()
    assert 4 < survives.sum() < 10


def test_linear_classifier_breaks_under_l1_where_the_steepest_values_have_reached_the_box() -> None:
    weights, images, labels = case()
    logits, difference = images.flatten(1) @ weights.T, weights[0] - weights[1]
    side = torch.where(labels == 0, 1.0, -1.0)
    margin = (side * (logits[:, 0] - logits[:, 1])).clamp(min=0)
    slope = -side[:, None] * difference
    order = slope.abs().argsort(1, descending=True)
    room = torch.where(slope > 0, 1 - images.flatten(1), images.flatten(1)).gather(1, order)
    steepness = slope.abs().gather(1, order)
    gained = (room * steepness).cumsum(1)
    used = torch.where(gained < margin[:, None], room, 0).sum(1)
    last = (gained < margin[:, None]).sum(1, keepdim=True)
    gained_before = (gained - room * steepness).gather(1, last)[:, 0]
    exact = used + (margin - gained_before) / steepness.gather(1, last)[:, 0]
    largest = float(exact.quantile(0.7))
    found = rp.minimal_eps(lambda x: x.flatten(1) @ weights.T, images, labels, eps=largest, norm="l1")
    survives, precision = found.isinf(), 1.001 * largest / LEVELS + 1e-5
    assert (exact[survives] > largest - precision).all()
    assert (exact[~survives] <= found[~survives] + 1e-5).all()
    assert (found[~survives] <= exact[~survives] + precision).all()
    assert 4 < survives.sum() < 10


def test_minimal_eps_does_not_depend_on_the_batch() -> None:
    weights, images, labels = case()
    weights, images = weights.double(), images.double()
    names = [str(i) for i in range(len(images))]

    def found(index: list[int]) -> Tensor:
        own = [names[i] for i in index]
        return rp.minimal_eps(lambda x: x.flatten(1) @ weights.T, images[index], labels[index], eps=0.125, ids=own)

    together = found(list(range(24)))
    assert torch.equal(torch.cat([found([i]) for i in (3, 7, 20)]), together[[3, 7, 20]])
