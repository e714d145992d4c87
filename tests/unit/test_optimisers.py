"""How optimisers move: Auto-PGD against a scalar version of the paper, its stages, Square, targeted runs."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from robustprobe.attacks import Attacked, Entries, LossValues, Objective, SearchResult, Victim, load_attack
from robustprobe.attacks._apgd import apgd
from robustprobe.attacks._search import Best, Optimiser, PerImageRandom, Search, everything
from robustprobe.attacks._sign_gradient import sign_gradient
from robustprobe.attacks._square import square
from robustprobe.attacks._staged import staged_apgd
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.registry import attacks
from robustprobe.core.threat import L1, L2, NORMS, Linf, Threat
from robustprobe.core.types import LabelSpace, LossContext
from robustprobe.tasks import load_task

pytestmark = pytest.mark.unit

EPS = 0.25
# Croce & Hein 2020, algorithm 1: p = 0, 0.22, then ever shorter by 0.03, not below 0.06.
CHECKPOINTS_OF_100 = (22, 41, 57, 70, 80, 87, 93, 99)


class Noted(Threat):
    """A threat that notes the step sizes it is asked for."""

    def __init__(self, inner: Threat) -> None:
        super().__init__(inner.eps)
        self.inner, self.sizes = inner, list[float]()

    def noise(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return self.inner.noise(images, generators)

    def stretch(self, perturbation: Tensor) -> Tensor:
        return self.inner.stretch(perturbation)

    def ascend(self, images: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        self.sizes.append(float(step_size))
        return self.inner.ascend(images, gradient, step_size)

    def clip(self, perturbation: Tensor) -> Tensor:
        return self.inner.clip(perturbation)

    def size(self, perturbation: Tensor) -> Tensor:
        return self.inner.size(perturbation)

    def resized(self, factor: float) -> "Noted":
        return Noted(self.inner.resized(factor))


class Watched:
    """An objective that remembers where it was asked; it is the loss alone, and nothing ever breaks."""

    def __init__(self, loss: Callable[[Tensor], Tensor]) -> None:
        self.loss, self.seen = loss, list[Tensor]()

    def __call__(self, images: Tensor, entries: Entries, progress: float) -> LossValues:
        self.seen.append(images.detach().clone())
        value = self.loss(images)
        return LossValues(value, value, value, torch.zeros(len(images), dtype=torch.bool))


def randomness(count: int) -> PerImageRandom:
    return PerImageRandom(0, tuple(str(i) for i in range(count)), "test")


def search(objective: Objective, steps: int, threat: Threat | None = None, random_start: bool = True) -> Search:
    return Search(threat or Linf(EPS), objective, steps, EPS / 4, random_start)


def one_number(value: float) -> Tensor:
    return torch.full((1, 1, 1, 1), value, dtype=torch.float64)


def run_apgd(
    loss: Callable[[Tensor], Tensor], start: float, steps: int
) -> tuple[list[float], list[float], SearchResult]:
    """Auto-PGD on an image of one number, 0.5: where it went, its step sizes, and what it returned."""
    image, watched, threat = one_number(0.5), Watched(loss), Noted(Linf(EPS))
    found = apgd(search(watched, steps, threat), image, everything(image), randomness(1), one_number(start))
    return [float(x) for x in watched.seen], threat.sizes, found


@pytest.mark.parametrize("optimiser", [apgd, sign_gradient, square])
def test_objective_is_told_the_share_of_steps_already_done(optimiser: Optimiser) -> None:
    images, told = torch.full((2, 3, 4, 4), 0.5), list[float]()

    def judge(x: Tensor, entries: Entries, progress: float) -> LossValues:
        told.append(progress)
        value = x.sum((1, 2, 3))
        return LossValues(value, value, value, torch.zeros(2, dtype=torch.bool))

    optimiser(search(judge, 4), images, everything(images), randomness(2), None)
    assert told == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize("optimiser", [apgd, sign_gradient, square])
def test_every_run_of_an_image_starts_elsewhere(optimiser: Optimiser) -> None:
    images, watched = torch.full((1, 3, 4, 4), 0.5), Watched(lambda x: x.sum((1, 2, 3)))
    entries = Entries(torch.zeros(3, dtype=torch.int64), torch.arange(3))
    optimiser(search(watched, 1), images.expand(3, -1, -1, -1), entries, randomness(1), None)
    starts = watched.seen[0]
    assert not any(torch.equal(starts[i], starts[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


class Scripted:
    """A loss that answers one number after another, with a gradient of 1 everywhere."""

    def __init__(self, values: Sequence[float]) -> None:
        self.values, self.asked = values, 0

    def __call__(self, images: Tensor) -> Tensor:
        value = self.values[self.asked]
        self.asked += 1
        sums = images.sum((1, 2, 3))
        return value + sums - sums.detach()


def halvings(values: Sequence[float]) -> list[int]:
    """After which steps the step size was halved, on a scripted loss."""
    _, sizes, _ = run_apgd(Scripted(values), 0.5, len(values) - 1)
    assert sizes[0] == 2 * EPS
    changes = [(i, b / a) for i, (a, b) in enumerate(pairwise(sizes), start=1) if b != a]
    assert all(ratio == 0.5 for _, ratio in changes)
    return [step for step, _ in changes]


def test_step_is_halved_at_every_checkpoint_where_nothing_improves() -> None:
    assert halvings([0.0] * 101) == list(CHECKPOINTS_OF_100)


def test_step_stays_while_every_step_improves() -> None:
    assert halvings([float(i) for i in range(101)]) == []


@pytest.mark.parametrize(("steps", "falls", "halved"), [(100, 5, []), (100, 6, [22]), (20, 0, []), (20, 1, [4])])
def test_step_is_halved_where_three_quarters_of_steps_or_fewer_go_up(steps: int, falls: int, halved: list[int]) -> None:
    """Of 22 steps to the first checkpoint, 17 are more than three quarters and 16 are not; of 4, 3 are not."""
    values = [0.0]
    for step in range(1, steps + 1):
        values.append(values[-1] + (-0.5 if step <= falls else 1.0))
    assert halvings(values) == halved


def test_step_is_halved_where_the_best_has_not_improved_though_steps_go_up() -> None:
    """The first checkpoint only notes the best; from a low point every step of the next 19 goes up, but not so far."""
    values = [float(i) for i in range(23)] + [float(i) / 100 for i in range(78)]
    found = halvings(values)
    assert 22 not in found
    # One step of 19 falls, so the share of rising ones does not halve it.
    assert found[0] == 41
    # Halved last time, it has this time only the share of rising steps to fear.
    assert 57 not in found


def test_first_step_is_whole_and_later_ones_are_a_quarter_of_the_last_move() -> None:
    sign = iter([1.0, -1.0, -1.0, 1.0, *[1.0] * 20])
    seen, _, _ = run_apgd(lambda images: next(sign) * images.sum((1, 2, 3)), 0.25, 20)
    expected = [
        0.25,
        0.75,  # the whole step, 2 eps
        0.5,  # 0.75 + 0.75 * (0.25 - 0.75) + 0.25 * (0.75 - 0.25)
        0.25,  # 0.5 + 0.75 * (0.25 - 0.5) + 0.25 * (0.5 - 0.75)
        0.5625,  # 0.25 + 0.75 * (0.75 - 0.25) + 0.25 * (0.25 - 0.5)
    ]
    assert seen[:5] == expected


def scalar_apgd(loss: Callable[[float], tuple[float, float]], start: float, steps: int) -> list[float]:
    """Croce & Hein 2020, algorithm 1, for one number around 0.5: `loss` gives value and slope. Where it goes."""
    low, high, size = 0.5 - EPS, 0.5 + EPS, 2 * EPS

    def kept(x: float) -> float:
        return min(max(x, low), high)

    def sign(slope: float) -> float:
        return float((slope > 0) - (slope < 0))

    value, slope = loss(start)
    path, values = [start], [value]
    x, before = start, start
    best, best_value, best_slope = start, value, slope
    checkpoint, period = max(int(0.22 * steps), 1), max(int(0.22 * steps), 1)
    last_checkpoint, best_then, halved_then = 0, value, True
    for k in range(1, steps + 1):
        share = 1.0 if k == 1 else 0.75
        z = kept(x + size * sign(slope))
        x, before = kept(x + share * (z - x) + (1 - share) * (x - before)), x
        value, slope = loss(x)
        path.append(x)
        values.append(value)
        if value > best_value:
            best, best_value, best_slope = x, value, slope
        if k == checkpoint:
            rises = sum(values[i] > values[i - 1] for i in range(last_checkpoint + 1, k + 1))
            few = rises <= 0.75 * (k - last_checkpoint)
            stuck = not halved_then and best_then >= best_value
            halved_then, best_then = few or stuck, best_value
            if halved_then:
                size, x, slope = size / 2, best, best_slope
            period = max(period - max(int(0.03 * steps), 1), int(0.06 * steps), 1)
            last_checkpoint, checkpoint = k, k + period
    return path


@given(start=st.floats(-1, 1), a=st.floats(1, 40), b=st.floats(0, 6), steps=st.sampled_from([1, 2, 7, 20, 50, 100]))
def test_apgd_goes_where_the_scalar_version_of_the_paper_goes(start: float, a: float, b: float, steps: int) -> None:
    def wave(images: Tensor) -> Tensor:
        x = images.sum((1, 2, 3))
        return (a * x + b).sin() - (x - 0.4) ** 2

    def value_and_slope(x: float) -> tuple[float, float]:
        at = one_number(x).requires_grad_(True)
        value = wave(at).sum()
        (slope,) = torch.autograd.grad(value, at)
        return float(value.detach()), float(slope)

    begin = 0.5 + EPS * start
    seen, _, found = run_apgd(wave, begin, steps)
    expected = scalar_apgd(value_and_slope, begin, steps)
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(expected), rtol=0, atol=1e-12)
    best = max(value_and_slope(x)[0] for x in expected)
    assert float(found.damage) == pytest.approx(best, abs=1e-12)
    assert value_and_slope(float(found.images))[0] == pytest.approx(best, abs=1e-12)


def test_apgd_comes_close_to_the_top_where_steps_of_one_size_jump_over_it() -> None:
    seen, _, found = run_apgd(lambda x: -(x.sum((1, 2, 3)) - 0.6123).abs(), 0.3, 100)
    assert abs(float(found.images) - 0.6123) < 1e-3
    assert abs(seen[1] - 0.6123) > 0.1


@pytest.mark.parametrize("norm", NORMS)
def test_apgd_starts_on_the_surface_of_the_ball(norm: str) -> None:
    images, watched = torch.full((5, 3, 4, 4), 0.5), Watched(lambda x: x.sum((1, 2, 3)))
    threat = NORMS[norm](EPS)
    apgd(search(watched, 1, threat), images, everything(images), randomness(5), None)
    torch.testing.assert_close(threat.size(watched.seen[0] - images), torch.full((5,), EPS))


def test_apgd_starts_at_the_image_without_a_random_start() -> None:
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    watched = Watched(lambda x: x.sum((1, 2, 3)))
    apgd(search(watched, 2, random_start=False), images, everything(images), randomness(2), None)
    assert torch.equal(watched.seen[0], images)


def attacked(name: str, steps: int, count: int = 3) -> Attacked:
    """An attack on a depth model, where nothing ever breaks."""
    images = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    task = load_task("depth", LabelSpace(max_depth=100.0))
    victim = Victim(lambda x: 1 + x.mean(1), torch.full((count, 4, 4), 1.5), task.space, task.attack_losses, "depth")
    return load_attack(AttackSpec(name=name, steps=steps)).run(victim, images, [str(i) for i in range(count)])


@pytest.mark.parametrize("steps", [1, 2, 10])
@pytest.mark.parametrize("name", ["apgd", "depthpgd"])
def test_last_iterate_is_judged_without_a_gradient(name: str, steps: int) -> None:
    found = attacked(name, steps)
    assert (found.forwards, found.backwards) == (3 * (steps + 1), 3 * steps)


def test_square_asks_for_no_gradient() -> None:
    found = attacked("square", 10)
    assert (found.forwards, found.backwards) == (3 * 11, 0)


@pytest.mark.parametrize("threat", [Linf(EPS / 4), L2(EPS)])
def test_staged_apgd_visits_larger_balls_and_ends_in_the_one_asked_for(threat: Threat) -> None:
    images = 0.3 + 0.4 * torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(1))
    watched = Watched(lambda x: (weights * x).sum((1, 2, 3)) + x.square().sum((1, 2, 3)))
    found = staged_apgd(search(watched, 20, threat), images, everything(images), randomness(6), None)
    sizes = torch.stack([threat.size(x - images).amax() for x in watched.seen]) / threat.eps
    # 30 % of the steps, and the start, at twice eps; as many at one and a half; 40 % at eps.
    assert len(sizes) == 7 + 7 + 9
    assert sizes[:7].max() == pytest.approx(2, rel=1e-5)
    assert sizes[8:14].max() == pytest.approx(1.5, rel=1e-5)
    assert sizes[14:].max() <= 1 + 1e-6
    assert (threat.size(found.images - images) <= threat.eps * (1 + 1e-6)).all()
    inside = torch.stack([watched.loss(x) for x in watched.seen[14:]]).amax(0)
    torch.testing.assert_close(watched.loss(found.images), inside)


def test_under_l1_the_larger_balls_are_of_three_and_two_eps() -> None:
    threat, watched = L1(1.0), Watched(lambda x: x.square().sum((1, 2, 3)))
    images = 0.3 + 0.4 * torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    staged_apgd(search(watched, 20, threat), images, everything(images), randomness(2), None)
    sizes = torch.stack([threat.size(x - images).amax() for x in watched.seen])
    assert sizes[:7].max() == pytest.approx(3, rel=1e-5)
    assert sizes[8:14].max() == pytest.approx(2, rel=1e-5)
    assert sizes[14:].max() <= 1


def test_staged_apgd_skips_the_larger_balls_from_a_warm_start() -> None:
    images, watched = torch.full((2, 3, 4, 4), 0.5), Watched(lambda x: x.square().sum((1, 2, 3)))
    staged_apgd(search(watched, 10), images, everything(images), randomness(2), images + EPS / 2)
    assert max(float((x - images).abs().max()) for x in watched.seen) <= EPS
    assert len(watched.seen) == 11


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5), L1(4)])
@pytest.mark.parametrize("stop", [False, True])
def test_square_makes_of_an_image_alone_what_it_makes_of_it_among_others(threat: Threat, stop: bool) -> None:
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def judge(x: Tensor, entries: Entries, progress: float) -> LossValues:
        value = ((weights * (x - images[entries.rows])) * 3).sin().sum((1, 2, 3))
        return LossValues(value, value, value, value > 4)

    def run(rows: list[int]) -> SearchResult:
        entries = Entries(torch.tensor(rows), torch.zeros(len(rows), dtype=torch.int64))
        asked = Search(threat, judge, 40, 0.1, stop=stop)
        return square(asked, images[entries.rows], entries, randomness(5), None)

    together = run([0, 1, 2, 3, 4])
    for rows in ([3], [4, 1], [2, 0, 3]):
        assert torch.equal(run(rows).images, together.images[rows])
        assert torch.equal(run(rows).damage, together.damage[rows])


def test_square_under_l2_empties_one_square_to_fill_another() -> None:
    images, watched = torch.full((8, 3, 12, 12), 0.5), Watched(lambda x: x.sum((1, 2, 3)))
    square(search(watched, 40, L2(0.5)), images, everything(images), randomness(8), None)
    assert not (watched.seen[0] == images).any()
    late = torch.stack(watched.seen[5:])
    # At places the squares are the same one: all of them but a few lie apart.
    assert (late == images).flatten(2).any(2).float().mean() > 0.9


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5), L1(4)])
def test_square_never_leaves_ball_or_box_and_keeps_the_best(threat: Threat) -> None:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1))
    watched = Watched(lambda x: (weights * x).sum((1, 2, 3)))
    found = square(search(watched, 60, threat), images, everything(images), randomness(4), None)
    assert len(watched.seen) == 61
    for x in watched.seen:
        assert (threat.size(x - images) <= threat.eps * (1 + 1e-5)).all()
        assert x.min() >= 0
        assert x.max() <= 1
    losses = torch.stack([watched.loss(x) for x in watched.seen])
    torch.testing.assert_close(watched.loss(found.images), losses.amax(0))
    assert (losses.amax(0) > losses[0]).all()


SIX = LabelSpace(classes=tuple("abcdef"))
WEIGHTS = torch.randn(6, 12, generator=torch.Generator().manual_seed(3))
FOUR = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(4))


def linear(images: Tensor) -> Tensor:
    return images.flatten(1) @ WEIGHTS.T


def goals_by_run(name: str, restarts: int, early_exit: bool = False) -> list[Tensor]:
    """The goals a targeted attack was given, one run after another, (4,) each."""
    attack_losses, asked = load_task("classification", SIX).attack_losses, dict[int, Tensor]()

    def noted(output: Tensor, aim: LossContext) -> Tensor:
        goal = cast(Tensor, aim.goal)
        if aim.progress == 0:
            asked.setdefault(len(asked), goal.clone())
        return attack_losses.losses[name](output, aim)

    victim = Victim(linear, linear(FOUR).argmax(1), SIX, attack_losses._replace(losses={name: noted}), "classification")
    spec = AttackSpec(name="apgd", objective=name, eps=1e-6, steps=2, restarts=restarts, early_exit=early_exit)
    load_attack(spec).run(victim, FOUR, ["a", "b", "c", "d"])
    return [asked[i] for i in range(len(asked))]


@pytest.mark.parametrize("name", ["targeted-dlr", "targeted-ce"])
def test_restarts_of_a_targeted_attack_take_wrong_classes_from_the_likeliest_on(name: str) -> None:
    order = linear(FOUR).argsort(dim=1, descending=True)
    # The label is the likeliest class; seven runs begin again after five.
    expected = [order[:, 1 + run % 5] for run in range(7)]
    found = goals_by_run(name, restarts=7)
    assert len(found) == 7
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_targeted_attack_never_aims_at_the_label_though_it_is_not_the_likeliest() -> None:
    attack_losses = load_task("classification", SIX).attack_losses
    labels = linear(FOUR).argsort(dim=1, descending=True)[:, 2]
    goals: list[Tensor] = []

    def noted(output: Tensor, aim: LossContext) -> Tensor:
        goals.append(cast(Tensor, aim.goal).clone())
        return attack_losses.losses["targeted-dlr"](output, aim)

    victim = Victim(linear, labels, SIX, attack_losses._replace(losses={"targeted-dlr": noted}), "classification")
    spec = AttackSpec(name="apgd:targeted-dlr", eps=1e-6, steps=1, restarts=5)
    load_attack(spec).run(victim, FOUR, ["a", "b", "c", "d"])
    assert not any((goal == labels).any() for goal in goals)


def test_a_targeted_run_raises_its_goal_over_the_label() -> None:
    labels = linear(FOUR).argmax(1)
    goal = linear(FOUR).argsort(dim=1, descending=True)[:, 1]
    task = load_task("classification", SIX)
    victim = Victim(linear, labels, SIX, task.attack_losses, "classification")
    found = load_attack(AttackSpec(name="apgd:targeted-ce", eps=0.3, steps=30))(victim, FOUR, ["a", "b", "c", "d"])
    before, after = (x.softmax(1).gather(1, goal[:, None]) for x in (linear(FOUR), linear(found)))
    assert (after > before).all()


def test_worst_takes_no_more_goals_than_there_are_wrong_classes() -> None:
    space = LabelSpace(classes=("a", "b"))
    victim = Victim(
        lambda x: linear(x)[:, :2],
        torch.tensor([0, 1, 0, 1]),
        space,
        load_task("classification", space).attack_losses,
        "classification",
    )
    kind = attacks.get("ensemble")
    phases = kind(AttackSpec(name="ensemble", eps=0.01)).phases(victim, FOUR)  # type: ignore[call-arg, attr-defined]
    assert [phase.name for phase in phases] == ["ce apgd", "targeted-ce apgd", "margin square"]
    assert [phase.runs for phase in phases] == [1, 1, 1]


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("optimiser", [apgd, sign_gradient, square])
def test_what_every_draw_broke_comes_before_more_damage_that_one_draw_held(optimiser: Optimiser, stop: bool) -> None:
    """Of a model that answers at random: by step the damage and the success of each of two draws."""
    draws = [((0.3, False), (0.3, False)), ((1.1, True), (1.1, True)), ((1.9, True), (0.9, False))]
    asked = 0

    def judge(x: Tensor, entries: Entries, progress: float) -> LossValues:
        nonlocal asked
        damage, success = draws[round(2 * progress)][asked % 2]
        asked += 1
        value = x.sum((1, 2, 3))
        return LossValues(value, value, torch.full((1,), damage), torch.tensor([success]))

    image = torch.full((1, 3, 4, 4), 0.5)
    problem = search(judge, 2)._replace(draws=2, stop=stop)
    found = optimiser(problem, image, everything(image), randomness(1), None)
    assert found.success.tolist() == [True]
    assert float(found.damage) == pytest.approx(1.1)


def test_of_the_last_iterate_what_it_did_counts_even_where_an_earlier_one_broke_the_image() -> None:
    best = Best(torch.zeros(1, 3, 2, 2), search(Watched(torch.sum), 2)._replace(last=True))
    for step, (damage, success) in enumerate([(0.1, False), (1.5, True), (0.2, False)]):
        judged = LossValues(torch.zeros(1), torch.zeros(1), torch.tensor([damage]).double(), torch.tensor([success]))
        best.visit(torch.tensor([0]), torch.full((1, 3, 2, 2), float(step)), judged, step)
    assert best.outcome().success.tolist() == [False]
    assert (best.outcome().images == 2).all()


def rough_classifier(count: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Two ReLU layers in double precision, and images (count, 3, 4, 4)."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((48, 64), (64, 64), (64, 8))
    first, second, third = (torch.randn(a, b, generator=generator, dtype=torch.float64) / a**0.5 for a, b in shapes)
    images = torch.rand(count, 3, 4, 4, generator=generator, dtype=torch.float64)
    return lambda x: 4 * ((x.flatten(1) @ first).relu() @ second).relu() @ third, images


@pytest.mark.parametrize("early_exit", [False, True])
@pytest.mark.parametrize("name", ["pgd:targeted-ce", "apgd:targeted-dlr", "ensemble"])
def test_a_broken_image_leaves_no_trace_whatever_further_runs_did(name: str, early_exit: bool) -> None:
    """Of several runs some break an image and others do not; how many are made at once depends on the batch."""
    model, images = rough_classifier(48)
    labels = model(images).argmax(1)
    task = load_task("classification", LabelSpace(classes=tuple("abcdefgh")))
    attack = load_attack(AttackSpec(name=name, eps=0.04, steps=6, restarts=3, early_exit=early_exit))

    def run(places: list[int]) -> Attacked:
        seen = Victim(model, labels[places], task.space, task.attack_losses, task.name)
        return attack.run(seen, images[places], [str(place) for place in places])

    whole = run(list(range(48)))
    broken = model(whole.images).argmax(1) != labels
    assert 0 < int(broken.sum()) < 48
    assert torch.equal(whole.rising.isnan(), broken)
    alone = [run([place]) for place in range(48)]
    for field in ("rising", "zero_gradient"):
        one_by_one = torch.cat([getattr(one, field) for one in alone])
        torch.testing.assert_close(getattr(whole, field), one_by_one, equal_nan=True)
