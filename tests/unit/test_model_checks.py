"""A gradient that is not the loss's, and answers that depend on the batch, are told apart from honest models."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustprobe.core.types import LabelSpace
from robustprobe.evaluation.model_checks import CheckedModel, batch_check, gradient_check
from robustprobe.tasks import Task, load_task
from tests.digits import digits
from tests.gradients import Function, with_gradient

pytestmark = pytest.mark.unit

COUNT = 10
EPS = 0.1
TEN = load_task("classification", LabelSpace(classes=tuple("0123456789")))
METRES = load_task("depth", LabelSpace(min_depth=0.5, max_depth=10.0))
MASKS = load_task("segmentation", LabelSpace(classes=("a", "b", "c"), ignore_index=255))


def eighth(gradient: Tensor) -> Tensor:
    kept = torch.full_like(gradient, 1e-20)
    kept[..., : gradient.shape[-1] // 8] = 1
    return gradient * kept


def of_digits(wrap: Callable[[Function], Function] = lambda model: model) -> CheckedModel:
    found = digits()
    ids = [str(i) for i in range(COUNT)]
    return CheckedModel(wrap(found.model), TEN, found.images[:COUNT], ids, found.labels[:COUNT])


def depths(images: Tensor) -> Tensor:
    return 2 + 4 * F.avg_pool2d(images, 3, stride=1, padding=1).mean(1)


def of_task(task: Task, function: Function) -> CheckedModel:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(COUNT, 3, 16, 16, generator=generator)
    targets = task.example_targets(COUNT, (32, 32), generator)
    return CheckedModel(function, task, images, [str(i) for i in range(COUNT)], targets)


@pytest.mark.parametrize(("norm", "eps"), [("linf", EPS), ("linf", 0.5 / 255), ("l2", 1.0), ("linf", 1.0)])
def test_an_honest_classifier_changes_as_its_gradient_says(norm: str, eps: float) -> None:
    found = gradient_check(of_digits(), eps, norm)
    assert found is not None
    assert found.passed
    assert found.value < 0.1


@pytest.mark.parametrize("task", [METRES, MASKS])
def test_honest_dense_models_pass_at_another_size_of_labels(task: Task) -> None:
    function: Function = depths if task is METRES else lambda x: 3 * F.avg_pool2d(x, 3, stride=1, padding=1)
    model = of_task(task, function)
    found = gradient_check(model, EPS, "linf")
    assert found is not None
    assert found.passed
    assert batch_check(model).passed


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(with_gradient(lambda g: -g), id="negated"),
        pytest.param(with_gradient(lambda g: g.flip(-1)), id="mirrored"),
        pytest.param(with_gradient(eighth), id="an eighth"),
        pytest.param(with_gradient(lambda g: 0.2 * g), id="a fifth of the size"),
        pytest.param(lambda m: lambda x: m(x).detach() + 0.05 * m(F.avg_pool2d(x, 3, 1, 1)), id="detached"),
        pytest.param(lambda m: lambda x: m(x + 0.01 * torch.sin(800 * torch.pi * x)), id="ripple"),
        pytest.param(lambda m: lambda x: m(x).detach(), id="none at all"),
    ],
)
def test_a_gradient_of_something_else_is_told(wrap: Callable[[Function], Function]) -> None:
    found = gradient_check(of_digits(wrap), EPS, "linf")
    assert found is not None
    assert not found.passed
    assert "gradient" in found.meaning


# Waves of 3.4 steps of eps/20, nearly linear over one of them and not over five, and of 1.2, linear over eps/200 only.
@pytest.mark.parametrize(("wave", "parts"), [(0.17, (20, 4)), (0.06, (200, 20, 4))])
def test_a_right_gradient_of_a_rough_loss_is_not_called_wrong(wave: float, parts: tuple[int, ...]) -> None:
    rough = of_digits(lambda m: lambda x: m(x + 0.01 * torch.sin(2 * torch.pi * x / (wave * EPS))))
    found = gradient_check(rough, EPS, "linf")
    assert found is not None
    assert not found.passed
    assert "the loss is rough" in found.meaning
    assert [f"over eps/{part}" in found.meaning for part in (200, 20, 4)] == [part in parts for part in (200, 20, 4)]


def test_a_wrong_gradient_is_called_wrong_at_every_step() -> None:
    wrong = gradient_check(of_digits(with_gradient(lambda g: -g)), EPS, "linf")
    assert wrong is not None
    assert "is not that of the loss" in wrong.meaning
    assert "over eps/200" in wrong.meaning


def test_a_model_whose_loss_stands_still_is_left_to_the_other_checks() -> None:
    assert gradient_check(of_digits(lambda m: lambda x: 0 * m(x)), EPS, "linf") is None


def test_answers_that_depend_on_the_batch_are_told() -> None:
    assert batch_check(of_digits()).passed
    found = batch_check(of_digits(lambda m: lambda x: m(x - x.mean(0))))
    assert not found.passed
    assert "attacked together" in found.meaning


def test_images_stay_inside_the_box() -> None:
    seen: list[tuple[float, float]] = []

    def watched(model: Function) -> Function:
        def call(images: Tensor) -> Tensor:
            seen.append((float(images.detach().min()), float(images.detach().max())))
            return model(images)

        return call

    model = of_digits(watched)
    gradient_check(model._replace(images=torch.ones_like(model.images)), EPS, "linf")
    assert min(low for low, _ in seen) >= 0
    assert max(high for _, high in seen) <= 1


def test_answers_of_a_fixed_number_are_told() -> None:
    found = batch_check(of_digits(lambda m: lambda x: m(x).sum(0).expand(COUNT, -1)))
    assert not found.passed
    assert "depends on the batch" in found.meaning
