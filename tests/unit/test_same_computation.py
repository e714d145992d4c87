"""The operations of a forward pass, differentiated anew, give the gradient that a model hides, and no other."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustprobe.evaluation.model_checks import gradient_difference
from robustprobe.evaluation.same_computation import LayersAnew, LostTrackError, SameComputation
from tests.digits import digits
from tests.gradients import Function, with_gradient

pytestmark = pytest.mark.unit

COUNT = 5


def images() -> Tensor:
    return digits().images[:COUNT]


class Attending(nn.Module):
    """Patches, a class token written into a buffer, attention that has a fast path, and operations in place."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.embed = nn.Conv2d(3, 8, 4, stride=4)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
        self.eval().requires_grad_(False)

    def forward(self, shown: Tensor) -> Tensor:
        patches = self.embed(shown).flatten(2).mT
        tokens = torch.zeros(len(shown), patches.shape[1] + 1, 8)
        tokens[:, 1:] = patches
        tokens[:, 0].add_(0.5)
        found: Tensor = self.layer(tokens)
        return found[:, 0]


@pytest.mark.parametrize("model", [digits().model, Attending()], ids=["convolutions", "attention"])
def test_an_honest_model_has_the_same_answers_and_gradient_on_other_images_too(model: Function) -> None:
    anew = SameComputation(model)
    for shown in (images(), images().flip(-1) * 0.9):
        torch.testing.assert_close(anew(shown), model(shown))
        assert gradient_difference(model, anew, shown) < 1e-5
    assert anew(images()[:2]).shape[0] == 2


def rounded(model: Function) -> Function:
    return lambda x: model((x * 8).round() / 8)


MASKINGS: dict[str, Callable[[Function], Function]] = {
    "negated": with_gradient(lambda g: -g),
    "an eighth": with_gradient(lambda g: g * (torch.arange(g.shape[-1]) < 2)),
    "detached": lambda m: lambda x: m(x).detach() + 0.0 * m(x),
    "detached images": lambda m: lambda x: m(x.detach() * 0.5 + x * 0.5),
    "of another function": lambda m: lambda x: m(x).detach() + (lambda y: y - y.detach())(m(F.avg_pool2d(x, 3, 1, 1))),
}


@pytest.mark.parametrize("name", MASKINGS)
def test_a_hidden_gradient_is_found(name: str) -> None:
    model = digits().model
    masked = MASKINGS[name](model)
    assert gradient_difference(model, masked, images()) > 0.3
    assert gradient_difference(model, SameComputation(masked), images()) < 1e-5


def test_rounding_is_passed_straight_through() -> None:
    model, masked = digits().model, rounded(digits().model)
    anew = SameComputation(masked)
    torch.testing.assert_close(anew(images()), masked(images()))
    assert gradient_difference(masked, anew, images()) == 1
    near = with_gradient(lambda g: g)(model)
    rows = (images() * 8).round() / 8
    shown = images().requires_grad_()
    (gradient,) = torch.autograd.grad(anew(shown).sum(), shown)
    there = rows.requires_grad_()
    (expected,) = torch.autograd.grad(near(there).sum(), there)
    torch.testing.assert_close(gradient, expected)


def test_what_leaves_torch_is_said_not_to_be_followed() -> None:
    def outside(shown: Tensor) -> Tensor:
        logits: Tensor = digits().model(torch.from_numpy(shown.detach().numpy() * 1))
        return logits

    with pytest.raises(LostTrackError, match="no operation of torch"):
        SameComputation(outside)(images().requires_grad_())


def test_layers_are_differentiated_anew_each_choice_for_itself() -> None:
    def layers(shown: Tensor, which: tuple[int, ...]) -> Any:
        return [shown.detach() * number for number in which]

    anew = LayersAnew(layers)
    shown = images().requires_grad_()
    for which in ((2, 3), (5,)):
        found: Any = anew(shown, which)
        (gradient,) = torch.autograd.grad(sum(part.sum() for part in found), shown)
        assert (gradient == sum(which)).all()


def test_gradients_of_nothing_do_not_differ() -> None:
    still: Function = lambda x: 0 * x  # noqa: E731
    assert gradient_difference(still, still, images()) == 0
    assert gradient_difference(still, lambda x: x.detach(), images()) == 0
    assert gradient_difference(lambda x: x, lambda x: 2 * x, images()) == pytest.approx(0.5)
