"""Formulas of the defences against a small independent computation; schedules, averages, crops, options."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from robustprobe import UserError
from robustprobe.core.resize import resized
from robustprobe.core.threat import image_generator
from robustprobe.core.types import Features
from robustprobe.defences import LayerFeatures, Projected, ascend, linf, squared_distance
from robustprobe.defences.base import defence_kind, load_defence
from robustprobe.defences.fare import Fare
from robustprobe.defences.lore import Lore
from robustprobe.encoders import Encoder, load_encoder
from robustprobe.encoders._timm import create
from robustprobe.encoders.file import Architecture, build, weights_module
from robustprobe.probing.surrogate_heads import fit_surrogate_heads
from robustprobe.training import data
from robustprobe.training.data import open_pool, random_view, shuffle, updates
from robustprobe.training.folder import RunFolder, architecture_of, card_of
from robustprobe.training.schedule import averaged, eps_factor, rate_factor, scheduled
from robustprobe.training.spec import make_spec

pytestmark = pytest.mark.unit

GENERATOR = torch.Generator().manual_seed(0)


def features(width: int = 6) -> list[Features]:
    return [Features(torch.randn(3, width, generator=GENERATOR), torch.randn(3, width, 2, 3, generator=GENERATOR))]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def by_hand(a: list[Features], b: list[Features], tokens: str, measure: object) -> list[float]:
    """A distance, token by token, in numpy."""
    assert callable(measure)
    found = []
    for position in range(3):
        cls = measure(a[0].cls[position].double().numpy(), b[0].cls[position].double().numpy())
        patches = [(f[0].patches[position].flatten(1).T.double().numpy()) for f in (a, b)]
        patch = float(np.mean([measure(x, y) for x, y in zip(*patches, strict=True)]))
        found.append({"cls": cls, "patch": patch, "both": (cls + patch) / 2}[tokens])
    return found


def one_minus_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return 1 - cosine(a, b)


def squared(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a - b) ** 2).sum())


@pytest.mark.parametrize("tokens", ["cls", "patch", "both"])
def test_published_losses(tokens: str) -> None:
    own, attacked, clean = features(), features(), features()
    seen = LayerFeatures(own, attacked, clean)

    def hand(a: list[Features], b: list[Features], measure: object) -> np.ndarray:
        return np.array(by_hand(a, b, tokens, measure))

    expected = {
        "deacl": hand(own, clean, one_minus_cosine) + 2 * hand(attacked, own, one_minus_cosine),
        "fare": hand(attacked, clean, squared),
        "trades-embed": (hand(own, clean, squared) + hand(attacked, own, squared)) / 2,
        "simclip": hand(attacked, own, one_minus_cosine),
    }
    for name, values in expected.items():
        found = load_defence(name, tokens, (-1,), {}).lowered(seen).loss  # type: ignore[arg-type]
        np.testing.assert_allclose(found.numpy(), values, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "measure", "against"),
    [
        ("deacl", one_minus_cosine, 2),
        ("fare", squared, 2),
        ("trades-embed", squared, 1),
        ("simclip", one_minus_cosine, 1),
    ],
)
def test_published_inner_objectives(name: str, measure: object, against: int) -> None:
    attacked, own, clean = features(), features(), features()
    found = load_defence(name, "cls", (-1,), {}).raised(attacked, own, clean, 0.0)
    np.testing.assert_allclose(
        found.numpy(), by_hand(attacked, (attacked, own, clean)[against], "cls", measure), rtol=1e-5
    )


def test_published_recipes() -> None:
    deacl, fare = defence_kind("deacl").recipe, defence_kind("fare").recipe
    assert [deacl.steps, deacl.step_share * deacl.eps * 255, deacl.momentum] == pytest.approx([5, 2, 0.9])
    assert (fare.learning_rate, fare.weight_decay, fare.steps) == (1e-5, 1e-4, 10)
    assert [fare.step_share * fare.eps * 255, fare.attack_momentum] == pytest.approx([1, 0.9])


def test_deacl_lets_the_gradient_through_its_own_clean_features_and_trades_does_not() -> None:
    clean, attacked = features(), features()
    for name, expected in (("deacl", True), ("trades-embed", False)):
        own = [Features(clean[0].cls.clone().requires_grad_(), clean[0].patches.clone())]
        load_defence(name, "cls", (-1,), {}).lowered(LayerFeatures(own, attacked, clean)).loss.sum().backward()
        gradient = own[0].cls.grad
        assert gradient is not None
        assert bool(gradient.abs().max() > 1e-6) is expected


@pytest.mark.parametrize("rho", [None, 0.3])
def test_lore_is_the_lagrangian_of_the_paper(rho: float | None, tiny_encoder: Encoder) -> None:
    """Equation 7 and appendix C of arXiv:2505.18884v2, in numpy."""
    images = torch.rand(3, 3, 16, 16, generator=GENERATOR)
    defence = load_defence("lore", "cls", (-1,), {} if rho is None else {"rho": rho})
    defence.prepare(tiny_encoder, images, lambda size: fit_surrogate_heads(tiny_encoder, size, images.device))
    clean = tiny_encoder(images)
    reference, parts = (
        clean.cls.double().numpy(),
        {k: v.detach().double().numpy() for k, v in defence.state_dict().items()},
    )
    first, bias, second, last = parts.values()
    assert first.shape == (512, reference.shape[1])
    hidden = np.maximum(reference @ first.T + bias, 0)
    multiplier = np.log1p(np.exp(hidden @ second[0] + last))
    for factor, violated in ((1.01, False), (3.0, True)):
        own = [Features(clean.cls * factor, clean.patches)]
        attacked = [Features(clean.cls * factor + 1, clean.patches)]
        outcome = defence.lowered(LayerFeatures(own, attacked, [clean]))
        excess = ((reference * (factor - 1)) ** 2).sum(1) - (rho or 0.05) * (reference**2).sum(1)
        moved = ((reference * (factor - 1) + 1) ** 2).sum(1)
        np.testing.assert_allclose(outcome.loss.detach().numpy(), moved + multiplier * excess, rtol=1e-5, atol=1e-5)
        defence.zero_grad()
        outcome.loss.sum().backward()
        gradient = defence.state_dict(keep_vars=True)["multiplier.2.bias"].grad
        # Descent of this gradient is ascent of the Lagrangian.
        expected = -(excess / (1 + np.exp(-(hidden @ second[0] + last)))).sum()
        assert gradient is not None
        assert float(gradient) == pytest.approx(expected, rel=1e-4)
        assert (float(gradient) < 0) is violated


def test_lore_as_published() -> None:
    recipe = defence_kind("lore").recipe
    assert (recipe.steps, recipe.step_share, recipe.attack_momentum, recipe.updates_per_batch) == (10, 0.25, 0, 5)
    assert (recipe.optimiser, recipe.learning_rate, recipe.weight_decay, recipe.epochs) == ("adamw", 1e-5, 1e-4, 2)
    assert load_defence("lore", "cls", (-1,), {}).own_rate == 5e-4


@pytest.mark.parametrize(("width", "rho"), [(384, 0.05), (768, 0.1)])
def test_lore_takes_the_bound_published_for_the_width(width: int, rho: float) -> None:
    encoder = build(Architecture(img_size=16, patch_size=16, embed_dim=width, depth=0, num_heads=2), "file:x").freeze()
    defence = load_defence("lore", "cls", (-1,), {})
    assert isinstance(defence, Lore)
    defence.prepare(encoder, torch.rand(1, 3, 16, 16, generator=GENERATOR), lambda size: [])
    assert defence.rho == rho


@pytest.mark.parametrize(("inner", "turns"), [("distance", "ddd"), ("heads", "hhh"), ("alternate", "dhd")])
def test_anyhead_takes_turns(inner: str, turns: str, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustprobe.probing.surrogate_heads.SCENES", 16)
    images = torch.rand(4, 3, 16, 16, generator=GENERATOR)
    defence = load_defence("anyhead", "both", (-1,), {"inner": inner})
    defence.prepare(tiny_encoder, images, lambda size: fit_surrogate_heads(tiny_encoder, size, images.device))
    clean, start = defence.look(tiny_encoder, images), images + 0.01
    fare = load_defence("fare", "both", (-1,), {})
    for step, turn in enumerate(turns):
        generators = [image_generator(0, str(i), "attack") for i in range(4)]
        defence.redraw(step, image_generator(0, "", "redraw", step))
        moved = defence.attack(tiny_encoder, tiny_encoder, images, generators, linf(8 / 255, 2))
        seen = defence.look(tiny_encoder, start)
        same = torch.equal(defence.raised(seen, clean, clean, 0.0), fare.raised(seen, clean, clean, 0.0))
        assert same is (turn == "d")
        there = defence.look(tiny_encoder, moved)
        assert (defence.raised(there, clean, clean, 1.0) > defence.raised(clean, clean, clean, 1.0)).all()
        outcome = defence.loss(tiny_encoder, tiny_encoder, images, moved)
        torch.testing.assert_close(outcome.loss, fare.lowered(LayerFeatures(there, there, clean)).loss)


def test_several_layers_are_protected_alike(tiny_encoder: Encoder) -> None:
    images = torch.rand(2, 3, 16, 16, generator=GENERATOR)
    defence = load_defence("fare", "both", (0, -1), {})
    own = defence.look(tiny_encoder, images)
    nothing = [Features(torch.zeros_like(f.cls), torch.zeros_like(f.patches)) for f in own]
    each = [
        load_defence("fare", "both", (-1,), {}).lowered(LayerFeatures([f], [f], [n])).loss
        for f, n in zip(own, nothing, strict=True)
    ]
    torch.testing.assert_close(defence.lowered(LayerFeatures(own, own, nothing)).loss, torch.stack(each).mean(0))


def test_rate_warms_up_and_falls_as_a_cosine() -> None:
    rates = [rate_factor(step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1)
    assert rates[55] == pytest.approx(0.5)
    assert all(a > b > 0 for a, b in pairwise(rates[10:]))
    assert [rate_factor(step, 4, 0.0) for step in (0, 2)] == [pytest.approx(1), pytest.approx(0.5)]


def test_eps_ramps_up() -> None:
    assert [eps_factor(step, 10, 0.4) for step in (0, 1, 3, 9)] == [0.25, 0.5, 1, 1]
    assert eps_factor(0, 10, 0.0) == 1


def test_average_of_weights() -> None:
    layer = nn.BatchNorm1d(1)
    mean = averaged(layer, 0.9)
    for value in (2.0, 3.0):
        nn.init.constant_(layer.weight, value)
        layer.get_buffer("num_batches_tracked").fill_(7)
        mean.update_parameters(layer)
    kept = mean.module.state_dict()
    assert kept["weight"].item() == pytest.approx(0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 3)
    assert kept["num_batches_tracked"].item() == 7


def test_learning_rate_of_a_continued_run_is_that_of_a_whole_one() -> None:
    def rates(first: int, last: int) -> list[float]:
        optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
        schedule = scheduled(optimiser, 10, 0.25, first)
        found = []
        for _ in range(first, last):
            found.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            schedule.step()
        return found

    whole = rates(0, 10)
    assert whole == [0.3 * rate_factor(step, 10, 0.25) for step in range(10)]
    assert all(rates(first, 10) == whole[first:] for first in (1, 2, 7))


def test_crops_follow_seed_image_and_epoch_and_keep_the_box() -> None:
    image = torch.rand(3, 20, 40, generator=GENERATOR)
    views = [random_view(image, (16, 24), image_generator(0, "a", "crop", epoch)) for epoch in (0, 0, 1)]
    assert views[0].shape == (3, 16, 24)
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    assert all(v.min() >= 0 and v.max() <= 1 for v in views)
    plain = torch.full((3, 7, 5), 0.5)
    torch.testing.assert_close(random_view(plain, (16, 16), GENERATOR), torch.full((3, 16, 16), 0.5))
    assert resized(image, (20, 40)) is image


def test_updates_are_the_same_whatever_they_are_split_into() -> None:
    pool = open_pool(["scenes"], Path("nowhere"), "train", 10, (16, 16))
    whole = list(updates(pool, batch=4, first=0, last=4, seed=0, shares=1, share=[0]))
    assert [len(parts[0].ids) for parts in whole] == [4] * 4
    assert len({i for parts in whole[:2] for i in parts[0].ids}) == 8
    assert [p[0].ids for p in whole[:2]] != [p[0].ids for p in whole[2:]]
    halves = [list(updates(pool, batch=4, first=1, last=4, seed=0, shares=2, share=[s])) for s in range(2)]
    for parts, first, second in zip(whole[1:], *halves, strict=True):
        assert parts[0].ids[::2] == first[0].ids
        assert torch.equal(parts[0].images[1::2], second[0].images)
    assert sorted(shuffle(10, 0, 3)) == list(range(10))


def test_images_are_shuffled_once_per_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, epochs = open_pool(["scenes"], Path("nowhere"), "train", 6, (16, 16)), []

    def noted(count: int, seed: int, epoch: int) -> list[int]:
        epochs.append(epoch)
        return shuffle(count, seed, epoch)

    monkeypatch.setattr(data, "shuffle", noted)
    assert len(list(updates(pool, batch=2, first=1, last=8, seed=0, shares=1, share=[0]))) == 7
    assert epochs == [0, 1, 2]


def test_images_of_several_datasets_have_ids_of_their_own() -> None:
    pool = open_pool(["scenes", "scenes"], Path("nowhere"), "train", 3, (16, 16))
    assert len(pool) == 6
    assert pool.read(0)[0] == pool.read(3)[0] == "scenes/" + pool.datasets[0].kept_ids[0]
    part = pool.whole(4)
    assert part.images.shape == (4, 3, 16, 16)
    assert len(set(part.ids)) == 2


def test_without_augmentation_every_epoch_sees_whole_images() -> None:
    whole, cropped = (
        open_pool(["scenes"], Path("nowhere"), "train", 4, (16, 16), augment=augment) for augment in (False, True)
    )
    image = resized(whole.read(0)[1], (16, 16))
    assert all(torch.equal(whole.view(0, 0, epoch)[1], image) for epoch in range(2))
    assert not torch.equal(cropped.view(0, 0, 0)[1], cropped.view(0, 0, 1)[1])


def test_the_ascent_goes_to_the_corner_of_the_ball_and_momentum_carries_it() -> None:
    images = torch.full((2, 3, 2, 2), 0.5)

    def generators() -> list[torch.Generator]:
        return [image_generator(0, str(i), "attack") for i in range(2)]

    for momentum in (0.0, 0.9):
        moved = ascend(lambda x, p: x.flatten(1).sum(1), images, generators(), linf(0.1, 10, 0.25, momentum))
        torch.testing.assert_close(moved, images + 0.1)

    signs = iter([1.0, -1.0])

    def turning(x: Tensor, progress: float) -> Tensor:
        return next(signs) * x.flatten(1).sum(1)

    moved = ascend(turning, images, generators(), linf(0.1, 2, 0.25, 0.9))
    started = ascend(lambda x, p: x.flatten(1).sum(1), images, generators(), linf(0.1, 0))
    # One step up, and one down: 0.9 - 1 < 0.
    up = (started + 0.025).clamp(max=0.6)
    torch.testing.assert_close(moved, (up - 0.025).clamp(0.4, 0.6))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"eps": "9"}, "outside"),
        ({"epochs": -1}, "epochs: expected greater"),
        ({"epochs": 0}, "0 epochs without a feature rank would change nothing"),
        ({"tokens": "all"}, "tokens"),
        ({"ema": 1.0}, "ema"),
        ({"options": ["gamma"]}, "write NAME=VALUE"),
        ({"bogus": 1}, "unknown key bogus"),
    ],
)
def test_wrong_runs_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_spec("deacl", {"encoder": "e", "datasets": ("d",), **given})


def test_unknown_methods_get_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"unknown defence 'decl'.*Did you mean 'deacl'"):
        make_spec("decl", {})
    assert make_spec("trades-embed", {"encoder": "e", "datasets": ("d",)}).optimiser == "adamw"


def test_encoders_that_cannot_be_saved_are_refused(tiny_encoder: Encoder) -> None:
    class Other(Encoder):
        def features(self, images: Tensor) -> Features:
            return Features(images.mean((2, 3)), images)

    with pytest.raises(UserError, match="cannot be hardened, because"):
        architecture_of(Other(tiny_encoder.card))
    assert architecture_of(tiny_encoder)["embed_dim"] == 16


@pytest.mark.parametrize("name", ["test_vit2", "test_resnet", "test_vit3.r160_in1k"])
def test_any_architecture_of_timm_can_be_saved(name: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "w.safetensors"
    save_file(create(name).state_dict(), checkpoint)
    teacher = load_encoder(f"file:{checkpoint}?arch={name}&norm=half")
    described = architecture_of(teacher)
    facts = {"eps": 4 / 255, "method": "fare", "epoch": 1}
    RunFolder(tmp_path / "out").claim({})
    RunFolder(tmp_path / "out").save_encoder(
        tmp_path / "out", card_of(teacher, described, facts), weights_module(teacher).state_dict()
    )
    again = load_encoder(f"file:{tmp_path / 'out'}")
    assert described["timm"].startswith(name.partition(".")[0])
    assert again.card.input_size == teacher.card.input_size
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    for here, there in zip(again(images), teacher(images), strict=True):
        torch.testing.assert_close(here, there, rtol=0, atol=0)


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    assert folder.claim({"eps": 0.1, "layers": (1, 2)}) is False
    assert folder.claim({"eps": 0.1, "layers": (1, 2)}) is True
    with pytest.raises(UserError, match=r"holds another run \(eps 0.1 there, 0.2 here\)"):
        folder.claim({"eps": 0.2, "layers": (1, 2)})


def test_a_cut_off_log_loses_what_will_be_done_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in range(4):
        folder.log({"step": step})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"ste')
    folder.forget_after(2)
    assert (tmp_path / "log.jsonl").read_text().splitlines() == ['{"step": 0}', '{"step": 1}', '{"step": 2}']


def test_a_projected_defence_is_the_mean_of_its_two_forms(tiny_encoder: Encoder) -> None:
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    made = Projected(Fare("both"), Fare("both"))
    made.prepare(tiny_encoder, images, lambda size: [])
    with torch.no_grad():
        clean, moved = tiny_encoder(images), tiny_encoder(images.flip(0))
    net = made.projector
    tokens = [f.patches.flatten(2).transpose(1, 2) for f in (moved, clean)]
    behind = (net(moved.cls) - net(clean.cls)).square().sum(1)
    behind = (behind + (net(tokens[0]) - net(tokens[1])).square().sum(2).mean(1)) / 2
    plain = squared_distance([moved], [clean], "both")
    torch.testing.assert_close(made.raised([moved], [clean], [clean], 0.0), (plain + behind) / 2)
    loss, facts = made.lowered(LayerFeatures([moved], [moved], [clean]))
    torch.testing.assert_close(loss, (plain + behind) / 2)
    torch.testing.assert_close(facts["projected_moved"], behind)
    assert not any(p.requires_grad for p in net.parameters())


def test_surrogate_heads_do_not_read_projected_features(tiny_encoder: Encoder) -> None:
    kinds = [load_defence("anyhead", "both", (-1,), {"inner": "heads"}) for _ in range(2)]
    with pytest.raises(UserError, match="leave out --projector"):
        Projected(*kinds).prepare(tiny_encoder, torch.rand(4, 3, 16, 16), lambda size: [])
