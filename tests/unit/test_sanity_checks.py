"""Checks beside a robust score: each model that fools an attack for the wrong reason is told by the check for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from robustprobe import UserError, load_dataset
from robustprobe.attacks import Victim, load_attack
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.spec import CHECK_COST, DatasetSpec, Suite
from robustprobe.core.types import LabelSpace, SanityCheck
from robustprobe.evaluation.collect import RowCollector
from robustprobe.evaluation.evaluate import EvaluationSpec, check_again, evaluate
from robustprobe.evaluation.same_computation import SameComputation
from robustprobe.evaluation.sanity_checks import CheckedImages, JudgingModel, _restart, sample_checks, trace_checks
from robustprobe.tasks import Task, load_task
from tests.conftest import SceneProbes
from tests.digits import Digits, digits
from tests.gradients import changed_gradient, with_gradient

pytestmark = pytest.mark.unit

COUNT = 30
IDS = [str(i) for i in range(COUNT)]
EPS = 0.1
TEN = load_task("classification", LabelSpace(classes=tuple("0123456789")))
METRES = load_task("depth", LabelSpace(min_depth=0.5, max_depth=10.0))

Function = Callable[[Tensor], Tensor]


@pytest.fixture(scope="module")
def case() -> Digits:
    """Test images the classifier gets right."""
    found = digits()
    right = (found.model(found.images).argmax(1) == found.labels).nonzero()[:COUNT, 0]
    return Digits(found.model, found.images[right], found.labels[right])


def checks(
    function: Function, images: Tensor, labels: Tensor, task: Task = TEN, **options: Any
) -> dict[str, SanityCheck]:
    """Every check of an attack on a model, by name."""
    spec = AttackSpec(**{"name": "pgd" if task is TEN else "depthpgd", "eps": EPS, **options})
    victim = Victim(function, labels, task.space, task.attack_losses, task.name)
    found = load_attack(spec).run(victim, images, IDS)
    made = found.images
    size = load_attack(spec).threat.size(made - images)
    ends = (float(made.min()), float(made.max()))
    sample = CheckedImages(victim, images, IDS, made, found.damage)
    listed = trace_checks(spec, ends, size, found.zero_gradient, found.rising)
    listed += sample_checks(spec, sample, {task.name: JudgingModel(function, labels, task)})[task.name]
    named = {check.name: check for check in listed}
    assert len(named) == len(listed)
    return named


def failed(found: dict[str, SanityCheck]) -> set[str]:
    return {name for name, check in found.items() if not check.passed}


NAMES = {
    "ball",
    "zero gradient",
    "still rising",
    "second restart",
    "large eps",
    "eps 0",
    "same answer twice",
    "black box",
    "transfer",
    "gradient",
    "batch of one",
}


@pytest.mark.parametrize("attack", ["pgd", "apgd"])
@pytest.mark.parametrize(("norm", "eps"), [("linf", EPS), ("l2", 1.0)])
def test_honest_classifier_passes_every_check(case: Digits, attack: str, norm: str, eps: float) -> None:
    found = checks(case.model, case.images, case.labels, name=attack, norm=norm, eps=eps)
    assert found.keys() == NAMES | {"logits"}
    assert failed(found) == set()
    assert all(":" not in check.meaning for check in found.values())


def depth(images: Tensor) -> Tensor:
    """Smooth, and inside its limits: 2 to 6 metres."""
    return 2 + 4 * nn.functional.avg_pool2d(images, 3, stride=1, padding=1).mean(1)


def test_honest_depth_model_passes_every_check(case: Digits) -> None:
    found = checks(depth, case.images, depth(case.images) * 1.02, METRES)
    assert found.keys() == NAMES | {"saturated depth"}
    assert failed(found) == set()


class Fault(NamedTuple):
    """A model made worse to attack, what must be flagged, and what must be said of it."""

    spoil: Callable[[Function], Function]
    flagged: set[str]
    says: dict[str, str]


def quantised(model: Function) -> Function:
    return lambda x: model((x * 8).round() / 8)


def sharpened(model: Function) -> Function:
    return lambda x: 1000 * model(x)


def noisy(model: Function) -> Function:
    return lambda x: (lambda logits: logits + 3 * torch.randn_like(logits))(model(x))


def softmaxed(model: Function) -> Function:
    return lambda x: model(x).softmax(1)


FAULTS = {
    "quantised input": Fault(
        quantised,
        {"zero gradient", "black box"},
        {"zero gradient": "the model hides its gradient", "black box": "the gradient misleads"},
    ),
    "logits times 1000": Fault(sharpened, {"zero gradient"}, {"zero gradient": "this score says little"}),
    "random outputs": Fault(
        noisy,
        {"same answer twice", "eps 0"},
        {"same answer twice": "it is random", "eps 0": "does not answer the same twice"},
    ),
    "probabilities": Fault(softmaxed, {"logits"}, {"logits": "these are probabilities, give logits"}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_model_that_misleads_an_attack_is_flagged_with_what_it_means(case: Digits, name: str) -> None:
    fault = FAULTS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = checks(fault.spoil(case.model), case.images, case.labels)
    assert failed(found) >= fault.flagged
    for check, sentence in fault.says.items():
        assert sentence in found[check].meaning


def test_depths_at_their_limits_are_flagged(case: Digits) -> None:
    def clamped(images: Tensor) -> Tensor:
        return (20 * depth(images) - 60).clamp(0.5, 10)

    found = checks(clamped, case.images, clamped(case.images) * 0.9, METRES)
    assert not found["saturated depth"].passed
    assert "no gradient, and the attack is blind there" in found["saturated depth"].meaning
    at_limits = (clamped(case.images) == 0.5) | (clamped(case.images) == 10)
    assert at_limits.float().mean() > 0.3


def test_attack_with_far_too_few_steps_is_flagged(case: Digits) -> None:
    few = checks(case.model, case.images, case.labels, steps=5, step_size=EPS / 40, random_start=False)
    assert not few["still rising"].passed
    assert "more steps would find more" in few["still rising"].meaning
    assert few["still rising"].value == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_embed_from_the_image_itself_is_an_error(case: Digits, norm: Literal["linf", "l2"]) -> None:
    spec = AttackSpec(name="embed", eps=EPS, norm=norm, random_start=False, steps=3)
    with pytest.raises(UserError, match=f"embed did not move {COUNT} of {COUNT} images.*exactly 0.*random_start"):
        load_attack(spec).run(Victim(case.model), case.images, IDS)


@pytest.mark.parametrize("name", ["pgd", "apgd", "ensemble"])
def test_wrong_images_may_stay_where_they_are(case: Digits, name: str) -> None:
    """Their gradients are not counted: that they did not move says nothing about the attack."""

    def model(images: Tensor) -> Tensor:
        return nn.functional.one_hot(case.labels, 10) + 0 * images.sum((1, 2, 3))[:, None]

    spec = AttackSpec(name=name, eps=EPS, random_start=False, steps=3)
    victim = Victim(model, (case.labels + 1) % 10, TEN.space, TEN.attack_losses, TEN.name)
    load_attack(spec).run(victim, case.images, IDS)
    with pytest.raises(UserError, match="did not move"):
        load_attack(spec).run(victim._replace(targets=case.labels), case.images, IDS)


@pytest.mark.parametrize(("name", "passed"), [("pgd", False), ("embed", False), ("square", False), ("min-eps", True)])
def test_attack_that_changed_no_image_is_flagged(name: str, passed: bool) -> None:
    spec = AttackSpec(name=name, eps=EPS)
    (ball,) = trace_checks(spec, (0.0, 1.0), torch.zeros(2), NOTHING, NOTHING)
    assert (ball.name, ball.passed) == ("ball", passed)
    assert ("changed no image, so this is the clean score" in ball.meaning) != passed


def test_attack_that_depends_on_its_start_is_flagged() -> None:
    """Without a gradient only the start counts, and one in four fools this model."""
    images, labels = torch.full((COUNT, 3, 4, 4), 0.5), torch.zeros(COUNT, dtype=torch.int64)

    def step(x: Tensor) -> Tensor:
        wrong = (x[:, 0, 0, 0] > 0.5 + EPS / 2).float() + 0 * x.sum((1, 2, 3))
        return torch.stack([torch.full_like(wrong, 0.5), wrong], 1)

    task = load_task("classification", LabelSpace(classes=("right", "wrong")))
    spec = AttackSpec(name="pgd", eps=EPS, steps=3)
    victim = Victim(step, labels, task.space, task.attack_losses, task.name)
    found = load_attack(spec).run(victim, images, IDS)
    sample = CheckedImages(victim, images, IDS, found.images, found.damage)
    listed = sample_checks(spec, sample, {task.name: JudgingModel(step, labels, task)})[task.name]
    (again,) = [check for check in listed if check.name == "second restart"]
    assert not again.passed
    assert "depends on its start, give it restarts" in again.meaning


@pytest.mark.parametrize(("better", "passed"), [(1, True), (2, False)])
def test_images_without_a_score_are_none_on_which_a_second_start_does_more(better: int, passed: bool) -> None:
    clean = torch.tensor([1.0, 1.0, 1.0, torch.nan, torch.nan])
    both = torch.cat([torch.full((better,), 0.2), clean[better:]])
    task = load_task("segmentation", LabelSpace(classes=("a", "b")))
    check = _restart(JudgingModel(lambda x: x, torch.zeros(5), task), clean, clean, both)
    assert check.value > 0.1
    assert check.passed is passed


def test_attack_that_gets_nowhere_at_any_eps_is_flagged(case: Digits) -> None:
    def model(images: Tensor) -> Tensor:
        return nn.functional.one_hot(case.labels, 10) + 0 * images.sum((1, 2, 3))[:, None]

    found = checks(model, case.images, case.labels)
    assert not found["large eps"].passed
    assert found["large eps"].value == 1
    assert "the attack does not work on this one" in found["large eps"].meaning


SIZES = torch.tensor([0.1, 0.05])
NOTHING = torch.full((2,), torch.nan)


@pytest.mark.parametrize(
    ("eps", "ends", "passed"),
    [(0.1, (0.0, 1.0), True), (0.09, (0.0, 1.0), False), (0.1, (-0.01, 1.0), False), (0.1, (0.0, 1.01), False)],
)
def test_images_outside_ball_or_box_are_flagged(eps: float, ends: tuple[float, float], passed: bool) -> None:
    (ball,) = trace_checks(AttackSpec(name="pgd", eps=eps), ends, SIZES, NOTHING, NOTHING)
    assert (ball.name, ball.passed) == ("ball", passed)
    assert ball.value == pytest.approx(0.1)


def test_traces_count_only_images_that_have_one() -> None:
    zeros, rising = torch.tensor([0.04, torch.nan]), torch.tensor([torch.nan, 0.2])
    named = {c.name: c for c in trace_checks(AttackSpec(name="pgd", eps=0.1), (0, 1), SIZES, zeros, rising)}
    assert named["zero gradient"].value == pytest.approx(0.04)
    assert named["zero gradient"].passed
    assert named["still rising"].value == pytest.approx(0.2)
    assert not named["still rising"].passed


def tallied(probes: SceneProbes, attack: str, target_task: str) -> dict[str, list[SanityCheck]]:
    """The checks of a whole run on six generated scenes, of which four are kept to attack again."""
    data = load_dataset("scenes", root=Path("nowhere"), limit=6, size=(16, 16))
    models = {task: model for task, (model, _) in probes.fitted.items() if task in OF_A_TASK}
    spec = AttackSpec(name=attack, steps=4)
    judges = [target_task] if target_task else list(models)
    work = EvaluationSpec(probes.encoder, models, data, (spec,), target_task, judges, 4, "fp32", torch.device("cpu"))
    collector = RowCollector(spec, {0, 2, 4, 5})
    for (judged,) in evaluate(work, keep={0, 1, 2, 4, 5}):
        collector.take(judged)
    assert [kept.position for kept in collector.kept] == [0, 2, 4, 5]
    found = check_again(work, spec, collector.kept)
    return {task: [*collector.trace(), *found.get(task, [])] for task in work.judges}


OF_A_TASK = {"classification": {"logits"}, "segmentation": {"logits"}, "depth": {"saturated depth"}}


@pytest.mark.parametrize(
    ("attack", "task"), [("pgd", "classification"), ("segpgd", "segmentation"), ("depthpgd", "depth")]
)
def test_a_run_comes_with_every_check_of_its_task(scene_probes: SceneProbes, attack: str, task: str) -> None:
    found = tallied(scene_probes, attack, task)
    assert found.keys() == {task}
    named = {check.name: check for check in found[task]}
    # Where every image is broken nothing can rise.
    assert named.keys() | {"still rising"} == NAMES | OF_A_TASK[task]
    for honest in ("ball", "zero gradient", "eps 0", "same answer twice", *OF_A_TASK[task]):
        assert named[honest].passed, named[honest].meaning


def test_an_attack_that_sees_no_head_is_checked_by_every_task(scene_probes: SceneProbes) -> None:
    found = tallied(scene_probes, "embed", "")
    assert found.keys() == OF_A_TASK.keys()
    for task, listed in found.items():
        # The black box would need the head.
        assert {check.name for check in listed} == (NAMES - {"black box"}) | OF_A_TASK[task]


def test_noise_leaves_a_ball_to_check_and_no_more(scene_probes: SceneProbes) -> None:
    assert {c.name for c in tallied(scene_probes, "noise", "")["depth"]} == {"ball"}


@pytest.mark.parametrize(("images", "checked"), [(3, 3), (24, 4), (100, 4), (200, 5), (400, 10), (10_000, 10)])
def test_checks_are_bounded_to_about_a_tenth_of_the_run(images: int, checked: int) -> None:
    suite = Suite(encoders=("x",), datasets=(DatasetSpec(name="scenes"),))
    assert suite.checked_images(images) == checked
    assert suite.model_copy(update={"sanity_images": 7}).checked_images(images) == min(7, images)
    assert suite.model_copy(update={"sanity_images": 0}).checked_images(images) == 0


def test_a_checked_image_costs_no_more_than_is_counted_for_it(case: Digits) -> None:
    spent = 0

    def function(images: Tensor) -> Tensor:
        nonlocal spent
        # A backward pass takes about as long as two forward passes.
        spent += len(images) * (3 if images.requires_grad and torch.is_grad_enabled() else 1)
        output: Tensor = case.model(images)
        return output

    spec = AttackSpec(name="pgd", eps=EPS)
    victim = Victim(function, case.labels, TEN.space, TEN.attack_losses, TEN.name)
    found = load_attack(spec).run(victim, case.images, IDS)
    attack, spent = spent, 0
    sample = CheckedImages(victim, case.images, IDS, found.images, found.damage)
    sample_checks(spec, sample, {TEN.name: JudgingModel(function, case.labels, TEN, chance=0.2)})
    # In a run, adversarial images are judged twice as well.
    assert 1 < spent / (attack + 2 * COUNT) <= CHECK_COST


def test_a_gradient_hidden_where_no_other_check_looks_is_told_by_transfer(case: Digits) -> None:
    """Clean images, on which the gradient is checked, have the true one."""

    def hidden(images: Tensor) -> Tensor:
        clean = ((images * 255 - (images * 255).round()).abs().amax((1, 2, 3)) < 1e-3).view(-1, 1, 1, 1)
        logits: Tensor = case.model(changed_gradient(images, lambda g: torch.where(clean, g, -g)))
        return logits

    found = checks(hidden, case.images, case.labels)
    assert not found["transfer"].passed
    assert found["transfer"].value > 0.2
    assert "hides its gradient" in found["transfer"].meaning
    assert "does more on" in found["transfer"].meaning


def test_another_gradient_that_does_no_harm_to_the_attack_passes_transfer(case: Digits) -> None:
    found = checks(with_gradient(lambda g: g / 2)(case.model), case.images, case.labels)["transfer"]
    assert found.passed
    assert found.value == 0
    assert "another gradient (by 50.0%)" in found.meaning


class OutsideTorch(torch.autograd.Function):
    """Half of the images, computed by numpy, with a backward pass of its own."""

    @staticmethod
    def forward(context: Any, images: Tensor) -> Tensor:
        return torch.from_numpy(images.numpy() / 2)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] / 2


def test_transfer_says_where_a_model_cannot_be_differentiated_anew(case: Digits) -> None:
    def outside(images: Tensor) -> Tensor:
        logits: Tensor = case.model(2 * torch.as_tensor(OutsideTorch.apply(images)))
        return logits

    found = checks(outside, case.images, case.labels)
    assert found["transfer"].passed
    assert "could not be differentiated anew (LostTrackError: no operation of torch" in found["transfer"].meaning
    assert found["gradient"].passed


@pytest.mark.parametrize("error", [ValueError("odd"), RuntimeError(""), KeyError("part")])
def test_what_a_stand_in_refuses_costs_no_number(
    case: Digits, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(self: object, images: Tensor) -> Tensor:
        raise error

    monkeypatch.setattr(SameComputation, "__call__", refuse)
    found = checks(case.model, case.images, case.labels, steps=2)["transfer"]
    assert found.passed
    assert f"could not be differentiated anew ({type(error).__name__}" in found.meaning


def test_transfer_is_asked_of_gradient_attacks_on_models_that_are_not_random_by_intention(case: Digits) -> None:
    assert "transfer" not in checks(case.model, case.images, case.labels, name="square", steps=10)
    assert "transfer" not in checks(case.model, case.images, case.labels, steps=3, eot_samples=2, judgements=2)
