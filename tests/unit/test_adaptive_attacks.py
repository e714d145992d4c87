"""Attacks adapted to a defence: averaged gradients, straight-through backward, the worst of n answers."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import robustprobe as rp
from robustprobe import UserError
from robustprobe.attacks import Attack, Victim, load_attack
from robustprobe.core.attack_spec import AttackChoice, AttackSpec
from robustprobe.core.registry import attacks
from robustprobe.core.spec import Suite
from robustprobe.core.straight_through import find_module, straight_through
from robustprobe.core.types import Features, LabelSpace
from robustprobe.evaluation.evaluate import worse_rows
from robustprobe.tasks import load_task
from tests.digits import digits

COUNT = 60
EPS = 0.1


class Noise(nn.Module):
    """A defence that adds noise at every call."""

    def forward(self, images: Tensor) -> Tensor:
        return images + 0.5 * torch.randn_like(images)


class Rounding(nn.Module):
    """Three grey levels, whose gradient is 0 almost everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        return (images * 2).round() / 2


class Jpeg(nn.Module):
    """Coarse frequencies of 4 x 4 blocks, as in JPEG, computed outside of torch."""

    def __init__(self) -> None:
        super().__init__()
        rows = torch.arange(4)
        basis = torch.cos(torch.pi * (rows[None] + 0.5) * rows[:, None] / 4) * 0.5**0.5
        basis[0] = 0.5
        self.register_buffer("basis", basis)

    def forward(self, images: Tensor) -> Tensor:
        basis = cast(Tensor, self.basis)
        side = images.shape[-1]
        blocks = torch.from_numpy(images.detach().numpy()).unflatten(2, (-1, 4)).unflatten(4, (-1, 4)).transpose(3, 4)
        coarse = ((basis @ blocks @ basis.T) * 4).round() / 4
        return cast(Tensor, (basis.T @ coarse @ basis).transpose(3, 4).reshape(-1, 3, side, side).clamp(0, 1))


class Dithering(nn.Module):
    """Three grey levels after random dithering: random, and without a useful gradient."""

    def forward(self, images: Tensor) -> Tensor:
        return (images * 2 + torch.rand_like(images) - 0.5).round() / 2


class Defended(nn.Module):
    """The digits' classifier behind a defence."""

    def __init__(self, defence: nn.Module) -> None:
        super().__init__()
        self.defence, self.network = defence, digits().model

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.network(self.defence(images)))


def left(model: Callable[[Tensor], Tensor], attack: str = "pgd", **options: Any) -> float:
    """Share of digits that are still classified correctly."""
    data = digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = rp.attack(
            model, data.images[:COUNT], data.labels[:COUNT], task="classification", attack=attack, eps=EPS, **options
        )
    assert float((found.adversarial - data.images[:COUNT]).abs().max()) <= EPS + 1e-6
    return float(found.score.mean())


def test_noise_defence_falls_to_averaged_gradients_and_the_worst_answer() -> None:
    model = Defended(Noise())
    plain, averaged = left(model), left(model, eot_samples=20)
    assert averaged <= plain - 0.05
    assert left(model, eot_samples=20, judgements=10) <= averaged - 0.2


@pytest.mark.parametrize("attack", ["pgd", "apgd", "ensemble"])
def test_rounding_defence_falls_to_a_straight_through_gradient(attack: str) -> None:
    model = Defended(Rounding())
    undefended = left(digits().model, attack, steps=10)
    if attack == "pgd":
        assert left(model, attack, steps=10) >= 0.85
    assert left(model, attack, bpda="defence", steps=10) <= undefended + 0.1


def test_jpeg_defence_that_cuts_the_graph_falls_to_a_straight_through_gradient() -> None:
    model = Defended(Jpeg())
    with pytest.raises(UserError, match="bpda"):
        left(model)
    assert left(model, "noise") >= 0.85
    assert left(model, bpda="defence") <= left(digits().model) + 0.1


def test_dithering_defence_needs_both() -> None:
    model = Defended(Dithering())
    assert left(model) >= 0.85
    assert left(model, eot_samples=20, judgements=10) >= 0.85
    once = left(model, bpda="defence")
    assert once <= left(digits().model) + 0.15
    assert left(model, bpda="defence", eot_samples=20, judgements=10) <= once - 0.1


def test_a_function_stands_in_for_a_module_or_for_the_whole_model() -> None:
    model = Defended(Rounding())
    named = left(model, bpda={"defence": lambda x: x})
    assert named == left(model, bpda="defence")
    assert left(model, bpda=digits().model) <= left(digits().model) + 0.1
    assert left(lambda x: model(x), bpda="defence") == named


@pytest.mark.parametrize("attack", ["pgd", "apgd", "ensemble"])
def test_an_honest_model_is_attacked_no_less(attack: str) -> None:
    class Honest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.defence, self.network = nn.Identity(), digits().model

        def forward(self, images: Tensor) -> Tensor:
            return cast(Tensor, self.network(self.defence(images)))

    adapted = left(Honest(), attack, steps=5, bpda="defence", eot_samples=2, judgements=2)
    assert adapted == left(Honest(), attack, steps=5)


@pytest.mark.parametrize("draws", [1, 3])
def test_label_free_asks_for_every_draw_of_every_iterate_once(draws: int) -> None:
    """Its two measures share an answer; two draws at the same images do not."""
    answers: list[Tensor] = []

    def encoder(images: Tensor) -> Features:
        patches = nn.functional.avg_pool2d(images, 4) + 0.1 * torch.randn(len(images), 3, 4, 4)
        answers.append(patches.detach())
        return Features(patches.mean((2, 3)), patches)

    def head(features: Features, size: tuple[int, int]) -> Tensor:
        return nn.functional.interpolate(features.patches, size=size)

    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    victim = Victim(encoder, surrogate_heads=lambda size: [head])
    spec = AttackSpec(name="label-free", eps=EPS, steps=2, eot_samples=draws)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        load_attack(spec).run(victim, images, ["a", "b"])
    # The clean images once; in each of two phases two steps and the last iterate.
    assert len(answers) == 1 + 2 * 3 * draws


def test_every_attack_with_gradients_takes_both_options() -> None:
    kinds = {name: cast(type[Attack], attacks.get(name)) for name in attacks.names()}
    with_gradient = [n for n, kind in kinds.items() if kind.access != "nothing" and kind.uses_gradient]
    assert all({"eot_samples", "bpda"} <= kinds[name].tuning for name in with_gradient)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("noise", {"eot_samples": 2}, "noise does not take eot_samples; it takes judgements"),
        ("apgd", {"momentum": 1.0}, "apgd does not take momentum"),
        ("square", {"bpda": ("a",)}, "square does not take bpda"),
    ],
)
def test_an_option_that_an_attack_does_not_take_is_an_error(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_attack(AttackSpec(name=name, **options))


def test_a_suites_options_reach_the_attacks_that_take_them() -> None:
    suite = Suite(encoders=("a",), datasets=({"name": "b"},), eot_samples=4, momentum=1.0, judgements=3)  # type: ignore[arg-type]

    def spec(choice: AttackChoice) -> AttackSpec:
        return suite.attack_specs(choice, 7, tuning=cast(type[Attack], attacks.get(choice.name)).tuning)[0]

    assert spec(AttackChoice(name="clean")).tuned == {"judgements": 3}
    assert spec(AttackChoice(name="apgd")).tuned == {"eot_samples": 4, "judgements": 3}
    assert spec(AttackChoice(name="min-eps")).tuned == {"eot_samples": 4, "judgements": 3, "lost_share": 0.5}
    assert spec(AttackChoice(name="min-eps", lost_share=0.2)).lost_share == 0.2
    assert spec(AttackChoice(name="pgd", eot_samples=1)).tuned == {"momentum": 1.0, "judgements": 3}


@pytest.mark.parametrize("options", [{"eot_samples": 0}, {"judgements": 0}, {"bpda": ["a..b"]}, {"bpda": [""]}])
def test_options_that_make_no_sense_are_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="attack 'pgd' cannot be used"):
        left(digits().model, **options)


class TestFindModule:
    def network(self) -> nn.Module:
        return nn.ModuleDict({"encoder": nn.ModuleDict({"jpeg": nn.Identity(), "a": nn.ModuleDict({"b": nn.ReLU()})})})

    @pytest.mark.parametrize("name", ["encoder.jpeg", "jpeg"])
    def test_by_its_path_or_the_end_of_it(self, name: str) -> None:
        assert isinstance(find_module([self.network()], name), nn.Identity)

    def test_inside_the_encoder_alone(self) -> None:
        encoder = cast(nn.ModuleDict, self.network())["encoder"]
        assert isinstance(find_module([encoder], "encoder.a.b"), nn.ReLU)

    def test_unknown(self) -> None:
        with pytest.raises(
            UserError, match=r"'encoder.jpg', which the model does not have. Did you mean 'encoder.jpeg'"
        ):
            find_module([self.network()], "encoder.jpg")

    def test_ambiguous(self) -> None:
        twice = nn.ModuleDict({"one": nn.ModuleDict({"x": nn.ReLU()}), "two": nn.ModuleDict({"x": nn.ReLU()})})
        with pytest.raises(UserError, match=r"may be one.x, two.x"):
            find_module([twice], "x")


def test_value_is_the_models_and_gradient_the_stand_ins() -> None:
    model = nn.Sequential(Rounding(), nn.Flatten())
    function = straight_through(model, {"0": lambda x: 3 * x})
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    answer = function(images)
    assert torch.equal(answer, model(images))
    (gradient,) = torch.autograd.grad(answer.sum(), images)
    assert torch.equal(gradient, torch.full_like(images, 3))


def test_module_is_left_as_it_was_even_where_it_fails() -> None:
    class Fails(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("broken")

    model = nn.Sequential(Fails())
    before = dict(vars(model[0]))
    with pytest.raises(RuntimeError, match="broken"):
        straight_through(model, {"0": None})(torch.rand(1, 3, 4, 4, requires_grad=True))
    assert vars(model[0]) == before


def test_identity_for_a_module_that_changes_the_shape_is_an_error() -> None:
    with pytest.raises(UserError, match=r"module '0' answers \(1, 48\), its stand-in .* \(1, 3, 4, 4\)"):
        straight_through(nn.Sequential(nn.Flatten()), {"0": None})(torch.rand(1, 3, 4, 4, requires_grad=True))


@pytest.mark.parametrize("name", ["classification", "segmentation", "depth", "normals"])
def test_of_two_judgements_the_worse_counts_image_by_image(name: str) -> None:
    task = load_task(name, LabelSpace(classes=("a", "b", "c")))
    generator = torch.Generator().manual_seed(0)
    targets = task.example_targets(6, (4, 4), generator)
    shape = {"classification": (6, 3), "depth": (6, 4, 4)}.get(name, (6, 3, 4, 4))
    first, second = (task.rows(torch.rand(shape, generator=generator) + 0.1, targets) for _ in range(2))
    rows, worse = worse_rows(task, first, second)
    scores = torch.stack([task.score(first), task.score(second)])
    wanted = scores.amin(0) if task.higher_is_better else scores.amax(0)
    assert torch.equal(task.score(rows), wanted)
    assert all(torch.equal(rows[c][i], (second if worse[i] else first)[c][i]) for c in rows for i in range(6))
