"""`rp.attack` on a user's own callables: every task, ids, and what it refuses."""

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustprobe as rp
from robustprobe import UserError
from robustprobe.api import attack_images
from robustprobe.attacks import Attack
from robustprobe.core.registry import attacks
from robustprobe.losses.embedding import embedding_distance
from tests.conftest import SceneProbes

pytestmark = pytest.mark.unit

COUNT = 4
EPS = 0.2


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


WEIGHTS = torch.randn(5, 3, generator=generator()) * 3
IMAGES = torch.rand(COUNT, 3, 8, 8, generator=generator(1))


def classifier(images: Tensor) -> Tensor:
    return (images.mean((2, 3)) - 0.5) @ WEIGHTS.T


def segmenter(images: Tensor) -> Tensor:
    """Logits at half the resolution of the images, as many segmenters answer."""
    return torch.einsum("kc,bchw->bkhw", WEIGHTS, nn.functional.avg_pool2d(images, 2) - 0.5)


def depth_network(images: Tensor) -> Tensor:
    return 1 + 5 * images.mean(1)


def channel_depth_network(images: Tensor) -> Tensor:
    return depth_network(images)[:, None]


LABELS = classifier(IMAGES).argmax(1)
MASKS = nn.functional.interpolate(segmenter(IMAGES), size=(8, 8)).argmax(1)
DEPTHS = depth_network(IMAGES)

CASES: dict[str, tuple[Callable[[Tensor], Tensor], Tensor, str, str]] = {
    "classification": (classifier, LABELS, "pgd", "classification"),
    "segmentation": (segmenter, MASKS, "segpgd", "segmentation"),
    "depth": (depth_network, DEPTHS, "depthpgd", "depth"),
    "depth with a channel": (channel_depth_network, DEPTHS, "depthpgd", "depth"),
}


@pytest.mark.parametrize("case", CASES)
def test_attack_on_a_callable_worsens_the_score_inside_the_ball(case: str) -> None:
    model, targets, attack, task = CASES[case]
    clean = rp.attack(model, IMAGES, targets, attack="clean", task=task)
    assert torch.equal(clean.adversarial, IMAGES)
    assert clean.score.shape == (COUNT,)
    found = rp.attack(model, IMAGES, targets, attack=attack, task=task, eps=EPS)
    assert (found.adversarial - IMAGES).abs().max() <= EPS + 1e-6
    assert found.adversarial.min() >= 0
    assert found.adversarial.max() <= 1
    worse = found.score - clean.score if task == "depth" else clean.score - found.score
    assert (worse >= 0).all()
    assert worse.sum() > 0


def test_scores_of_clean_images_are_those_of_the_task() -> None:
    wrong = (LABELS + torch.tensor([0, 1, 0, 0])) % 5
    assert rp.attack(classifier, IMAGES, wrong, attack="clean", task="classification").score.tolist() == [1, 0, 1, 1]
    perfect = rp.attack(
        lambda x: nn.functional.one_hot(MASKS, 5).movedim(-1, 1), IMAGES, MASKS, attack="clean", task="segmentation"
    )
    assert perfect.score.tolist() == [1] * COUNT
    off = rp.attack(channel_depth_network, IMAGES, DEPTHS + 0.5, attack="clean", task="depth")
    torch.testing.assert_close(off.score, torch.full((COUNT,), 0.5))


def test_depth_with_and_without_a_channel_is_the_same() -> None:
    plain, channel = (
        rp.attack(m, IMAGES, DEPTHS, attack="depthpgd", task="depth") for m in (depth_network, channel_depth_network)
    )
    assert torch.equal(plain.adversarial, channel.adversarial)
    assert torch.equal(plain.score, channel.score)


def test_depth_without_a_value_counts_nowhere() -> None:
    unknown = DEPTHS.clone()
    unknown[:, :4] = torch.tensor([0, torch.nan, torch.inf, -1])[:, None]
    found = rp.attack(depth_network, IMAGES, unknown, attack="clean", task="depth")
    torch.testing.assert_close(found.score, torch.zeros(COUNT))


def test_ignored_pixels_count_nowhere() -> None:
    """A pixel counts for the few around it, since logits are upsampled: two rows of four are out of reach."""
    targets = MASKS.clone()
    targets[:, :4] = 255
    moved = rp.attack(segmenter, IMAGES, targets, attack="segpgd", task="segmentation", random_start=False).adversarial
    assert torch.equal(moved[:, :, :2], IMAGES[:, :, :2])
    assert not torch.equal(moved[:, :, 2:], IMAGES[:, :, 2:])


def test_embed_moves_any_tensor() -> None:
    found = rp.attack(classifier, IMAGES, attack="embed", eps=EPS)
    expected = (classifier(found.adversarial) - classifier(IMAGES)).square().sum(1)
    torch.testing.assert_close(found.score, expected)
    assert (found.score > 0).all()


def test_embed_without_a_random_start_is_an_error() -> None:
    """At the clean images themselves the distance is zero and so is its gradient."""
    with pytest.raises(UserError, match="embed did not move 4 of 4 images"):
        rp.attack(classifier, IMAGES, attack="embed", eps=EPS, random_start=False)


@pytest.mark.parametrize("attack", ["pgd", "apgd"])
def test_a_gradient_of_0_everywhere_is_said_beside_the_score(attack: str) -> None:
    """The random start moves every image, so that nothing else tells that no step followed."""
    labels = classifier(IMAGES.round()).argmax(1)
    with pytest.warns(UserWarning, match=f"{attack}: every gradient was exactly 0 on [1-4] of 4 images") as told:
        found = rp.attack(
            lambda x: classifier(x.round()), IMAGES, labels, task="classification", attack=attack, eps=EPS
        )
    assert found.score.sum() > 0
    assert Path(told[0].filename) == Path(__file__)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rp.attack(classifier, IMAGES, labels, task="classification", attack=attack, eps=EPS)


def test_embed_moves_an_encoder_and_a_model_by_its_encoder(scene_probes: SceneProbes) -> None:
    encoder, (model, _) = scene_probes.encoder, scene_probes.fitted["segmentation"]
    images = torch.rand(COUNT, 3, 16, 16, generator=generator(2))
    found = rp.attack(encoder, images, attack="embed", eps=EPS, steps=3)
    torch.testing.assert_close(found.score, embedding_distance(encoder(found.adversarial), encoder(images)))
    targets = torch.zeros(COUNT, 16, 16, dtype=torch.int64)
    assert torch.equal(
        rp.attack(model, images, targets, attack="embed", eps=EPS, steps=3).adversarial, found.adversarial
    )


def test_model_brings_its_own_task(scene_probes: SceneProbes) -> None:
    model = scene_probes.fitted["classification"][0]
    images = torch.rand(COUNT, 3, 16, 16, generator=generator(2))
    labels = model(images).argmax(1)
    assert rp.attack(model, images, labels, attack="clean").score.tolist() == [1] * COUNT
    assert rp.attack(model, images, labels, attack="pgd", eps=1.0, steps=10).score.sum() < COUNT
    with pytest.raises(UserError, match="the model is for classification, not depth; leave task= out"):
        rp.attack(model, images, labels, task="depth")


# `surrogate` and `label-free` take encoders only; tests/contract holds them to this. A corruption has a severity, and
# a universal perturbation needs training images.
OTHERS = ("clean", "surrogate", "label-free", "corruption", "universal", "universal-task")


@pytest.mark.parametrize("attack", [n for n in attacks.names() if n not in OTHERS])
def test_starts_follow_ids(attack: str) -> None:
    def run(images: Tensor, targets: Tensor | None, ids: list[str] | None) -> Tensor:
        task = None if case is None else case[3]
        return rp.attack(model, images, targets, attack=attack, task=task, ids=ids, steps=2).adversarial

    access = cast(type[Attack], attacks.get(attack)).access
    case = next((c for c in CASES.values() if c[2] == attack or access in ("task", c[3])), None)
    model, targets = (classifier, None) if case is None else case[:2]
    by_place, named = run(IMAGES, targets, None), run(IMAGES, targets, ["0", "1", "2", "3"])
    assert torch.equal(by_place, named)
    assert not torch.equal(by_place, run(IMAGES, targets, ["a", "b", "c", "d"]))
    last = run(IMAGES[[3]], None if targets is None else targets[[3]], ["3"])
    torch.testing.assert_close(last, by_place[[3]], rtol=0, atol=1e-6)


class Trained(nn.Module):
    """A small network as it comes out of training."""

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task = task
        self.norm, self.drop = nn.BatchNorm2d(3), nn.Dropout(0.5)
        self.last = nn.BatchNorm1d(3)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.drop(self.norm(images))
        if self.task == "classification":
            logits: Tensor = self.last(maps.mean((2, 3)))
            return logits
        return maps if self.task == "segmentation" else maps.mean(1, keepdim=True).exp()


@pytest.mark.parametrize(
    ("task", "attack", "targets"),
    [
        ("classification", "pgd", torch.tensor([0, 1, 2, 0])),
        ("segmentation", "segpgd", MASKS % 3),
        ("depth", "depthpgd", DEPTHS),
        (None, "embed", None),
        (None, "noise", None),
    ],
)
def test_users_network_in_training_is_left_as_it_was(task: str | None, attack: str, targets: Tensor | None) -> None:
    model = Trained(task or "segmentation")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = rp.attack(model, IMAGES, targets, attack=attack, task=task, steps=2)
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    again = rp.attack(model.eval(), IMAGES, targets, attack=attack, task=task, steps=2)
    assert torch.equal(first.adversarial, again.adversarial)
    assert torch.equal(first.score, again.score)


class Holder:
    """An object of a user's own with a network inside."""

    def __init__(self, network: nn.Module) -> None:
        self.parts = {"network": network}

    def __call__(self, images: Tensor) -> Tensor:
        found: Tensor = self.parts["network"](images - 0.5)
        return found

    def predict(self, images: Tensor) -> Tensor:
        return self(images)


def around(kind: str, network: nn.Module) -> Callable[[Tensor], Tensor]:
    holder = Holder(network)
    kinds: dict[str, Callable[[Tensor], Tensor]] = {
        "lambda": lambda images: cast(Tensor, network(images - 0.5)),
        "lambda in a lambda": lambda images: (lambda other: cast(Tensor, network(other)))(images - 0.5),
        "object": holder,
        "bound method": holder.predict,
        "partial": functools.partial(Holder.predict, holder),
    }
    return kinds[kind]


@pytest.mark.parametrize("kind", ["lambda", "lambda in a lambda", "object", "bound method", "partial"])
def test_networks_that_a_callable_holds_are_in_evaluation_mode(kind: str) -> None:
    network = Trained("classification")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first = rp.attack(around(kind, network), IMAGES, LABELS % 3, task="classification", steps=2)
    assert all(m.training for m in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    again = rp.attack(around(kind, network.eval()), IMAGES, LABELS % 3, task="classification", steps=2)
    assert torch.equal(first.adversarial, again.adversarial)
    assert torch.equal(first.score, again.score)


def test_a_model_without_a_gradient_is_told_what_to_do() -> None:
    with pytest.raises(UserError, match=r"no gradient to the images.*such as square"):
        rp.attack(lambda x: classifier(x).detach(), IMAGES, LABELS, task="classification")


def test_eps_is_read_like_everywhere() -> None:
    written, number = (rp.attack(classifier, IMAGES, attack="noise", eps=e).adversarial for e in ("8/255", 8 / 255))
    assert torch.equal(written, number)


def test_attack_works_inside_no_grad() -> None:
    outside = rp.attack(classifier, IMAGES, LABELS, task="classification").adversarial
    with torch.no_grad():
        inside = rp.attack(classifier, IMAGES, LABELS, task="classification").adversarial
    assert torch.equal(inside, outside)


def not_a_tensor(images: Tensor) -> Any:
    return [classifier(images)]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown attack": ({"attack": "pdg"}, r"unknown attack 'pdg'\. Did you mean 'pgd'"),
    "unknown task": ({"task": "classificaton"}, r"unknown task 'classificaton'\. Did you mean 'classification'"),
    "no task": ({"task": None}, "attack pgd needs a model for classification .* no task; name it with task="),
    "attack for another task": ({"attack": "segpgd"}, "segpgd needs a model for segmentation .* for classification"),
    "no targets": ({"targets": None}, "targets are missing"),
    "label too large": ({"targets": LABELS + 5}, "targets hold label .*expected 0 to 4"),
    "label below 0": ({"targets": torch.full((COUNT,), -1)}, "targets hold label -1"),
    "too few labels": ({"targets": LABELS[:3]}, r"targets have shape \(3,\); classification takes \(4,\)"),
    "maps for classes": ({"targets": MASKS}, r"targets have shape \(4, 8, 8\); classification takes \(4,\)"),
    "float labels": ({"targets": LABELS + 0.5}, "targets .*float32"),
    "model of another shape": (
        {"model": segmenter},
        r"answers \(1, 5, 4, 4\); a classification model answers \(B, C\)",
    ),
    "model without a tensor": ({"model": not_a_tensor}, r"answers list; a classification model answers \(B, C\)"),
    "model that fails where a gradient is asked for": (
        {"model": lambda x: classifier(torch.as_tensor(np.asarray(x)))},
        r"the model fails on images \(4, 3, 8, 8\) .*that require a gradient.*RuntimeError: Can't call numpy",
    ),
    "model that fails on several images": (
        {"model": lambda x: classifier(x.reshape(1, 3, 8, 8))},
        r"the model fails on images \(\d, 3, 8, 8\) of torch.float32.*: RuntimeError: shape",
    ),
    "lazy layers": (
        {"model": nn.Sequential(nn.Flatten(), nn.LazyLinear(5))},
        "lazy layers without weights; call it once",
    ),
    "NaN": ({"model": lambda x: classifier(x) * torch.nan}, "NaN|not finite"),
    "NaN for noise": ({"model": lambda x: classifier(x) * torch.nan, "attack": "noise"}, "NaN"),
    "eps above 1": ({"eps": 8}, r"eps 8 is outside \[0, 1\]"),
    "no steps": ({"steps": 0}, "attack 'pgd' cannot be used: steps"),
    "unknown norm": ({"norm": "l7"}, "unknown norm .l7.*linf"),
    "too few ids": ({"ids": ["a"]}, "1 ids for 4 images"),
    "8-bit images": ({"images": (IMAGES * 255).byte()}, "Divide 8-bit images by 255"),
    "images above 1": ({"images": IMAGES * 2}, r"expected \[0, 1\]"),
    "segmentation label": (
        {"model": segmenter, "targets": MASKS + 100, "attack": "segpgd", "task": "segmentation"},
        "targets hold label 10.; expected 0 to 4",
    ),
    "one map for many images": (
        {"model": segmenter, "targets": MASKS[0], "attack": "segpgd", "task": "segmentation"},
        r"targets have shape \(8, 8\); segmentation takes \(4, h, w\)",
    ),
    "depth with two channels": (
        {"model": lambda x: x[:, :2], "targets": DEPTHS, "attack": "depthpgd", "task": "depth"},
        r"answers \(1, 2, 8, 8\); a depth model answers \(B, h, w\)",
    ),
    "depth from something else": (
        {"model": not_a_tensor, "targets": DEPTHS, "attack": "depthpgd", "task": "depth"},
        r"answers list; a depth model answers \(B, h, w\)",
    ),
    "depth targets with a channel": (
        {"model": depth_network, "targets": DEPTHS[:, None], "attack": "depthpgd", "task": "depth"},
        r"targets have shape \(4, 1, 8, 8\); depth takes \(4, h, w\)",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_refused_with_what_to_do(case: str) -> None:
    changes, message = WRONG[case]
    given = {"model": classifier, "images": IMAGES, "targets": LABELS, "task": "classification", **changes}
    with pytest.raises(UserError, match=message):
        rp.attack(given.pop("model"), given.pop("images"), given.pop("targets"), **given)


def test_encoder_given_for_a_task_is_refused(scene_probes: SceneProbes) -> None:
    images, depths = torch.rand(COUNT, 3, 16, 16, generator=generator()), torch.ones(COUNT, 16, 16)
    with pytest.raises(UserError, match="answers Features; a depth model answers"):
        rp.attack(scene_probes.encoder, images, depths, attack="depthpgd", task="depth")


def test_images_labels_and_goals_move_to_the_device_of_a_module() -> None:
    """`meta` stands for another device: it computes nothing, so only the move is tested."""
    there, images, labels = nn.Linear(2, 2, device="meta"), torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
    moved = attack_images._beside(there, images, labels, images)
    assert [tensor.device.type for tensor in moved if tensor is not None] == ["meta"] * 3
    assert attack_images._beside(there, images, None, None)[1:] == (None, None)
    for model in (nn.Linear(2, 2), nn.Flatten(), lambda images: images):
        assert attack_images._beside(model, images, labels, None)[0] is images


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_images_on_the_cpu_are_attacked_on_the_gpu_of_the_model() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).cuda()
    images, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
    result = rp.attack(model, images, labels, attack="pgd", task="classification", steps=2)
    assert (result.adversarial.device.type, result.score.device.type) == ("cuda", "cuda")
    assert rp.minimal_eps(model, images, labels, eps="8/255", steps=2).shape == (2,)
