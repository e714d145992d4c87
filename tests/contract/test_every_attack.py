"""Every registered attack keeps the contract of `Attack`: a new attack file is held to it without a change here."""

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from robustprobe import UserError
from robustprobe.attacks import Attack, GradientAttack, Victim, load_attack
from robustprobe.attacks._search import everything
from robustprobe.attacks.base import target_tasks
from robustprobe.attacks.label_free import LabelFree
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.fast_linear import fast_linear
from robustprobe.core.registry import attacks, tasks
from robustprobe.core.types import Features, HeadDesign, LabelSpace, LossContext
from robustprobe.core.views import Resized
from robustprobe.encoders import Encoder
from robustprobe.losses.embedding import embedding_distance
from robustprobe.tasks import Model, Task, fitting_attacks, load_task, resize, task_kind
from tests.gradients import changed_gradient

pytestmark = pytest.mark.contract

# Corruptions have a severity in place of a ball, and perturbations for all images are made on training images:
# tests/unit/test_corruptions.py and tests/unit/test_universal.py hold them to their contracts.
KINDS = {name: cast(type[Attack], attacks.get(name)) for name in attacks.names()}
NAMES = [name for name, kind in KINDS.items() if not (kind.own_unit or kind.uses_training)]
SPACE = LabelSpace(classes=("a", "b", "c"))
COUNT = 4
IDS = [f"image {i}" for i in range(COUNT)]
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def access(name: str) -> str:
    return cast(type[Attack], attacks.get(name)).access


def seen_by(case: str) -> str:
    """The task whose model the attack of a case is made against, `encoder` or `nothing`."""
    name, _, task = case.partition(" ")
    return task or access(name)


# Each attack against each kind of victim it may see, as `apgd depth`.
CASES = [f"{n} {v}".strip() for n in NAMES for v in target_tasks(n, fitting_attacks(tasks.names()))]
MOVING = [n for n in CASES if n.split()[0] not in ("clean", "min-eps")]
WITH_MODEL = [n for n in CASES if access(n.split()[0]) != "nothing"]
# Square tries at random: it may not get anywhere in a few queries.
CLIMBING = [n for n in WITH_MODEL if n.split()[0] != "square"]
# `min-eps` returns the least harm that breaks an image, all others the most they find.
HARMFUL = [n for n in WITH_MODEL if n.split()[0] != "min-eps"]


def random_images(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images with many values at both ends of the box."""
    values = torch.rand(COUNT, 3, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (values * 1.4 - 0.2).clamp(0, 1).to(dtype)


def labels(task: Task, model: nn.Module) -> Tensor:
    """Labels for `random_images()`: where the task has classes, those that the model answers, and one wrong class."""
    generator = torch.Generator().manual_seed(1)
    random = task.example_targets(COUNT, (16, 16), generator)
    if random.is_floating_point():
        return random
    with torch.no_grad():
        answer: Tensor = model(random_images(dtype=next(model.parameters()).dtype)).argmax(1)
    if not task.label_axes:
        return task.fit_labels((answer + torch.tensor([0, 0, 0, 1])) % 3, (16, 16))
    return torch.where(random == task.no_label, random, answer)


@pytest.fixture(scope="module")
def victims(tiny_encoder: Encoder) -> Callable[[str, torch.dtype], Victim]:
    made: dict[tuple[str, torch.dtype], Victim] = {}

    def victim(name: str, dtype: torch.dtype = torch.float32) -> Victim:
        """What attack `name` sees, working in `dtype`."""
        key = seen_by(name), dtype
        if key not in made:
            made[key] = _victim(copy.deepcopy(tiny_encoder).to(dtype), *key)
        return made[key]

    return victim


def _victim(encoder: Encoder, kind: str, dtype: torch.dtype) -> Victim:
    if kind in ("nothing", "encoder"):
        segmenter = load_task("segmentation", SPACE)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            heads = [
                segmenter.head(encoder.card.widths, HeadDesign()).to(dtype).eval().requires_grad_(False) for _ in "ab"
            ]
        return Victim(encoder, surrogate_heads=lambda size: heads)
    task = load_task(kind, SPACE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = task.head(encoder.card.widths, HeadDesign()).to(dtype)
    model = Model(encoder, head, task, Resized(size=(16, 16))).eval().requires_grad_(False)
    return Victim(model, labels(task, model), SPACE, task.attack_losses, kind)


def part(victim: Victim, index: list[int]) -> Victim:
    return victim._replace(targets=None if victim.targets is None else victim.targets[index])


def run(name: str, victim: Victim, images: Tensor, ids: list[str] | None = None, **options: Any) -> Tensor:
    spec = AttackSpec(name=name.split()[0], **{"steps": 2, **options})
    return load_attack(spec)(victim, images, IDS if ids is None else ids)


@pytest.mark.parametrize("name", CASES)
@given(
    # A ball below the smallest float32 holds nothing but the image, and `embed` says so.
    eps=st.sampled_from([0.0, 1e-9, 1 / 1020, 8 / 255, 1.0]) | st.floats(1e-9, 1),
    step_size=st.none() | st.floats(0, 1),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 10_000),
    iterate=st.sampled_from(["best", "last"]),
)
def test_result_is_inside_ball_and_box(
    victims: Callable[[str, torch.dtype], Victim],
    name: str,
    eps: float,
    step_size: float | None,
    dtype: torch.dtype,
    seed: int,
    iterate: str,
) -> None:
    model_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    victim, images = victims(name, model_dtype), random_images(seed, dtype)
    inner = victim.function
    victim = victim._replace(function=lambda x: inner(x.to(model_dtype)))
    found = run(name, victim, images, eps=eps, step_size=step_size, seed=seed, iterate=iterate)
    assert found.dtype == dtype
    assert found.shape == images.shape
    assert not found.requires_grad
    assert found.min() >= 0
    assert found.max() <= 1
    # `images + eps` is rounded once, and so is eps: half a unit in the last place of 1 each.
    slack = torch.finfo(model_dtype).eps
    assert (found.double() - images.double()).abs().max() <= eps + slack


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_eps_0_returns_the_input(victims: Callable[[str, torch.dtype], Victim], name: str, dtype: torch.dtype) -> None:
    images = random_images(dtype=dtype)
    found = run(name, victims(name, dtype), images, eps=0, step_size=0.1)
    assert torch.equal(found, images)
    assert found.dtype == dtype
    assert found.data_ptr() != images.data_ptr()


@pytest.mark.parametrize("name", MOVING)
def test_every_image_is_moved(victims: Callable[[str, torch.dtype], Victim], name: str) -> None:
    images = random_images()
    found = run(name, victims(name, torch.float32), images, eps=8 / 255)
    assert ((found - images).abs().flatten(1).amax(1) > 0.5 * 8 / 255).all()


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("name", HARMFUL)
def test_harm_is_not_below_that_of_the_first_image_shown(
    victims: Callable[[str, torch.dtype], Victim], name: str, steps: int
) -> None:
    images, victim = random_images(), victims(name, torch.float32)
    found, shown = watched_run(name, victim, images, steps=steps)
    before, after = damage(name, victim, images, shown[0]), damage(name, victim, images, found)
    assert (after >= before).all()
    assert after.sum() > before.sum() or name not in CLIMBING


@pytest.mark.parametrize("step_size", [None, 2 * 8 / 255])
@pytest.mark.parametrize("name", [n for n in HARMFUL if n.split()[0] not in ("sea", "ensemble")])
def test_result_is_the_worst_of_all_images_the_model_was_shown(
    victims: Callable[[str, torch.dtype], Victim], name: str, step_size: float | None
) -> None:
    """With steps across the whole ball the last iterate is seldom the worst."""
    images, victim = random_images(), victims(name, torch.float32)
    found, shown = watched_run(name, victim, images, steps=8, step_size=step_size)
    worst = torch.stack([damage(name, victim, images, x) for x in shown]).amax(0)
    assert torch.equal(damage(name, victim, images, found), worst)


def watched_run(name: str, victim: Victim, images: Tensor, **options: Any) -> tuple[Tensor, list[Tensor]]:
    """The result, and what the model was shown inside the ball."""
    shown: list[Tensor] = []

    def watched(x: Tensor) -> Any:
        if not torch.equal(x, images):
            shown.append(x.detach().clone())
        return victim.function(x)

    return run(name, victim._replace(function=watched), images, eps=8 / 255, **options), shown


def damage(name: str, victim: Victim, images: Tensor, moved: Tensor) -> Tensor:
    """What the task says, or the distance the embedding has moved, computed to the bit as the attack does."""
    if name == "label-free":
        with fast_linear():
            return (
                cast(LabelFree, load_attack(AttackSpec(name=name)))
                .phases(victim, images)[0]
                .objective(moved, everything(images), 1.0)
                .damage
            )
    if name == "surrogate":
        attack = cast(GradientAttack, load_attack(AttackSpec(name=name)))
        with fast_linear():
            return attack.objective(victim, images)(moved, everything(images), 1.0).damage
    with torch.no_grad(), fast_linear():
        output = victim.function(moved)
        if seen_by(name) == "encoder":
            return embedding_distance(output, victim.function(images))
        assert victim.attack_losses is not None
        assert victim.targets is not None
        return victim.attack_losses.damage(output, LossContext(victim.targets, SPACE))


@pytest.mark.parametrize("name", [n for n in HARMFUL if n.split()[0] != "ensemble"])
def test_an_image_never_gets_better_with_eps_when_started_from_the_smaller_ball(
    victims: Callable[[str, torch.dtype], Victim], name: str
) -> None:
    images, victim, previous, reached = random_images(), victims(name, torch.float32), None, None
    for eps in (1 / 255, 2 / 255, 8 / 255):
        spec = AttackSpec(name=name.split()[0], eps=eps, steps=2)
        found = load_attack(spec).run(victim, images, IDS, previous)
        assert (found.images - images).abs().max() <= eps + 1e-6
        assert reached is None or (found.damage >= reached).all()
        previous, reached = found.images, found.damage


@pytest.mark.parametrize("name", [n for n in HARMFUL if n.split()[0] != "ensemble"])
def test_a_smaller_ball_never_takes_the_random_start_away(
    victims: Callable[[str, torch.dtype], Victim], name: str
) -> None:
    """With images of a smaller ball an attack does at least what it does without, image by image."""
    images, victim = random_images(), victims(name, torch.float32)
    attack = load_attack(AttackSpec(name=name.split()[0], eps=8 / 255, steps=3))
    alone = attack.run(victim, images, IDS)
    # Perturbations of one grey level along which nothing was looked for.
    poor = images + torch.where(images < 0.5, 1, -1) / 255
    helped = attack.run(victim, images, IDS, poor)
    assert (helped.damage >= alone.damage).all()
    assert helped.forwards > alone.forwards


@pytest.mark.parametrize("name", HARMFUL)
def test_restarts_never_help_the_model(victims: Callable[[str, torch.dtype], Victim], name: str) -> None:
    images, victim = random_images(), victims(name, torch.float32)
    once, often = (
        load_attack(AttackSpec(name=name.split()[0], steps=2, restarts=n)).run(victim, images, IDS) for n in (1, 3)
    )
    assert (often.damage >= once.damage).all()
    assert often.forwards > once.forwards or name == "worst classification"


@pytest.mark.parametrize("name", WITH_MODEL)
def test_early_exit_changes_no_verdict_and_no_other_image(
    victims: Callable[[str, torch.dtype], Victim], name: str
) -> None:
    images, victim = random_images(dtype=torch.float64), victims(name, torch.float64)
    spec = AttackSpec(name=name.split()[0], steps=5, restarts=2, early_exit=True)
    together = load_attack(spec).run(victim, images, IDS)
    whole = load_attack(spec.model_copy(update={"early_exit": False})).run(victim, images, IDS)
    if seen_by(name) == "classification":
        assert torch.equal(together.damage >= 1, whole.damage >= 1)
    alone = [load_attack(spec).run(part(victim, [i]), images[[i]], [IDS[i]]) for i in range(COUNT)]
    assert torch.equal(torch.cat([a.images for a in alone]), together.images)


L2_EPS = 0.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_l2_result_is_inside_ball_and_box(
    victims: Callable[[str, torch.dtype], Victim], name: str, dtype: torch.dtype
) -> None:
    images = random_images(dtype=dtype)
    victim = victims(name, torch.float64 if dtype == torch.float64 else torch.float32)
    inner, kind = victim.function, torch.float64 if dtype == torch.float64 else torch.float32
    found = run(name, victim._replace(function=lambda x: inner(x.to(kind))), images, eps=L2_EPS, norm="l2", steps=4)
    assert found.min() >= 0
    assert found.max() <= 1
    size = (found.double() - images.double()).flatten(1).norm(dim=1)
    assert (size <= L2_EPS * (1 + 1e-6)).all()
    assert name not in MOVING or (size > 0.2 * L2_EPS).all()


# Exact in float64. In float32 the tiny encoder gave equal bits too, for batches of 1, 4, 6 and 17; larger matrix
# products may take another kernel for another batch size, so nothing is promised there.
@pytest.mark.parametrize("name", CASES)
def test_batch_of_one_equals_batch_of_many(victims: Callable[[str, torch.dtype], Victim], name: str) -> None:
    images, victim = random_images(dtype=torch.float64), victims(name, torch.float64)
    together = run(name, victim, images, steps=5)
    alone = [run(name, part(victim, [i]), images[[i]], [IDS[i]], steps=5) for i in range(COUNT)]
    assert torch.equal(torch.cat(alone), together)


@pytest.mark.parametrize("name", CASES)
def test_result_does_not_depend_on_the_order_of_images(
    victims: Callable[[str, torch.dtype], Victim], name: str
) -> None:
    images, victim, order = random_images(dtype=torch.float64), victims(name, torch.float64), [2, 0, 3, 1]
    straight = run(name, victim, images, steps=3)
    shuffled = run(name, part(victim, order), images[order], [IDS[i] for i in order], steps=3)
    assert torch.equal(shuffled, straight[order])


# Auto-PGD's first step is one of 2 eps, which may end in the same corner of the ball: where a cosine has one gradient.
@pytest.mark.parametrize("name", MOVING)
def test_start_follows_seed_and_id(victims: Callable[[str, torch.dtype], Victim], name: str) -> None:
    images, victim = random_images(), victims(name, torch.float32)
    first = run(name, victim, images, steps=1, seed=3)
    assert torch.equal(first, run(name, victim, images, steps=1, seed=3))
    other_seed = run(name, victim, images, steps=1, seed=4)
    other_ids = run(name, victim, images, [f"{i}'" for i in IDS], steps=1, seed=3)
    for other in (other_seed, other_ids):
        differs = (other != first).flatten(1).any(1)
        assert differs.any() if name.endswith(("retrieval", "landmarks")) else differs.all()


@pytest.mark.parametrize("name", CASES)
def test_global_random_state_plays_no_part(victims: Callable[[str, torch.dtype], Victim], name: str) -> None:
    images, victim, results = random_images(), victims(name, torch.float32), []
    with torch.random.fork_rng(devices=[]):
        for seed in (0, 1):
            torch.manual_seed(seed)
            state = torch.get_rng_state()
            results.append(run(name, victim, images))
            assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(*results)


class InTraining(nn.Module):
    """A user's network as it comes out of training: everything on, and part of it in evaluation mode."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.axes = 4 if kind in ("nothing", "encoder") else task_kind(kind).output_axes
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.late_norm = nn.BatchNorm2d(3).eval()
        self.conv.bias.requires_grad_(False)  # type: ignore[union-attr]
        self.success = False

    def forward(self, images: Tensor) -> Tensor:
        if self.success:
            raise RuntimeError("broken model")
        maps = cast(Tensor, self.late_norm(self.drop(self.norm(self.conv(images)))))
        if self.axes == 2:
            return maps.mean((2, 3))
        return maps.mean(1).exp() if self.axes == 3 else maps


def inspect(model: nn.Module) -> dict[str, object]:
    """Everything about a model that an attack may not change."""
    state: dict[str, object] = {f"value {k}": v.tolist() for k, v in model.state_dict().items()}
    state |= {f"mode {k}": m.training for k, m in model.named_modules()}
    state |= {f"flag {k}": (p.requires_grad, p.grad is None) for k, p in model.named_parameters()}
    return state


@pytest.fixture
def in_training(request: pytest.FixtureRequest) -> Victim:
    kind = seen_by(request.param)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = InTraining(kind)
    if kind in ("nothing", "encoder"):
        return Victim(model, surrogate_heads=lambda size: [lambda maps, small: resize(cast(Tensor, maps), small)])
    task = load_task(kind, SPACE)
    return Victim(model, labels(task, copy.deepcopy(model).eval()), SPACE, task.attack_losses, kind)


@pytest.mark.parametrize(("name", "in_training"), [(n, n) for n in CASES], indirect=["in_training"], ids=CASES)
def test_model_in_training_is_attacked_in_evaluation_mode_and_left_as_it_was(name: str, in_training: Victim) -> None:
    model = cast(InTraining, in_training.function)
    before = inspect(model)
    found = run(name, in_training, random_images(), steps=3)
    assert inspect(model) == before
    model.eval()
    assert torch.equal(run(name, in_training, random_images(), steps=3), found)


@pytest.mark.parametrize(
    ("name", "in_training"), [(n, n) for n in WITH_MODEL], indirect=["in_training"], ids=WITH_MODEL
)
def test_model_that_fails_is_left_as_it_was(name: str, in_training: Victim) -> None:
    model = cast(InTraining, in_training.function)
    model.success = True
    before = inspect(model)
    with pytest.raises(RuntimeError, match="broken model"):
        run(name, in_training, random_images())
    assert inspect(model) == before


@pytest.mark.parametrize("name", CASES)
def test_encoder_and_head_are_untouched(victims: Callable[[str, torch.dtype], Victim], name: str) -> None:
    victim = victims(name, torch.float32)
    model = cast(nn.Module, victim.function)
    before, images = inspect(model), random_images()
    given_images = images.clone()
    run(name, victim, images, steps=3)
    assert inspect(model) == before
    assert torch.equal(images, given_images)
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", WITH_MODEL)
def test_answer_that_is_not_finite_is_an_error(
    victims: Callable[[str, torch.dtype], Victim], name: str, bad: float
) -> None:
    victim = victims(name, torch.float32)

    def poisoned(images: Tensor) -> Any:
        answer = victim.function(images)
        return Features(*(a * bad for a in answer)) if isinstance(answer, Features) else answer * bad

    with pytest.raises(UserError, match="not finite"):
        run(name, victim._replace(function=poisoned), random_images())


def spoilt_gradient(images: Tensor, bad: float) -> Tensor:
    """The images, with a gradient that is wrong in one value of the last one."""

    def change(gradient: Tensor) -> Tensor:
        spoilt = gradient.clone()
        spoilt[-1, 0, 0, 0] = bad
        return spoilt

    return changed_gradient(images, change)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", [n for n in WITH_MODEL if cast(type[Attack], attacks.get(n.split()[0])).uses_gradient])
def test_gradient_that_is_not_finite_is_an_error(
    victims: Callable[[str, torch.dtype], Victim], name: str, norm: str, bad: float
) -> None:
    victim = victims(name, torch.float32)
    inner = victim.function
    spoilt = victim._replace(function=lambda x: inner(spoilt_gradient(x, bad)))
    with pytest.raises(UserError, match="gradient is not finite on 1 of"):
        run(name, spoilt, random_images(), norm=norm)


@pytest.mark.parametrize("name", [n for n in CLIMBING if n.split()[0] not in ("ensemble", "min-eps")])
def test_a_smaller_ball_that_changed_nothing_leaves_the_random_start(
    victims: Callable[[str, torch.dtype], Victim], name: str
) -> None:
    images, victim = random_images(), victims(name, torch.float32)
    attack = load_attack(AttackSpec(name=name.split()[0], eps=8 / 255, steps=2))
    found = attack.run(victim, images, IDS, images.clone()).images
    assert (found != images).flatten(1).any(1).all()
    if seen_by(name) == "encoder":
        assert (attack.run(victim, images, IDS, images.clone()).zero_gradient < 1).all()


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        pytest.param(lambda x: x * 255, r"range from 0 to 255; expected \[0, 1\]", id="255"),
        pytest.param(lambda x: x - 0.01, r"range from -0.01 to 0.99; expected \[0, 1\]", id="below 0"),
        pytest.param(lambda x: x.masked_fill(x > 0.9, torch.nan), "hold NaN", id="NaN"),
        pytest.param(lambda x: x.masked_fill(x > 0.9, torch.inf), "range from 0 to inf", id="infinity"),
        pytest.param(lambda x: x[0], r"\(3, 16, 16\)", id="three axes"),
        pytest.param(lambda x: (x * 255).byte(), "torch.uint8.*Divide 8-bit images by 255", id="8 bit"),
    ],
)
@pytest.mark.parametrize("name", CASES)
def test_wrong_images_are_an_error(
    victims: Callable[[str, torch.dtype], Victim], name: str, spoilt: Callable[[Tensor], Tensor], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(name, victims(name, torch.float32), spoilt(random_images()))


@pytest.mark.parametrize("ids", [IDS[:-1], [*IDS, "more"], []])
@pytest.mark.parametrize("name", CASES)
def test_wrong_number_of_ids_is_an_error(
    victims: Callable[[str, torch.dtype], Victim], name: str, ids: list[str]
) -> None:
    with pytest.raises(UserError, match=f"{len(ids)} ids for 4 images"):
        run(name, victims(name, torch.float32), random_images(), ids)
