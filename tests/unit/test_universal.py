"""Perturbations for all images: made on training images alone, the same for every image, stronger than noise."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from robustprobe import UserError
from robustprobe.attacks import TrainBatch, UniversalAttack, Victim, load_attack
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.threat import NORMS
from robustprobe.datasets import Dataset, load_dataset
from robustprobe.encoders import Encoder, load_encoder
from robustprobe.evaluation.evaluate import EvaluationSpec, evaluate, is_checked_again, victim
from robustprobe.evaluation.universal_perturbations import UniversalPerturbations
from robustprobe.losses.embedding import embedding_distance
from robustprobe.probing.cache import load_weights
from tests.conftest import SceneProbes

pytestmark = pytest.mark.unit
COUNT = 6


def images(count: int = COUNT, seed: int = 0, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 0.8 + 0.1


def attack(**options: Any) -> UniversalAttack:
    made = load_attack(AttackSpec.model_validate({"name": "universal", "eps": 8 / 255, "steps": 6, **options}))
    assert isinstance(made, UniversalAttack)
    return made


def given(made: Tensor) -> Callable[[Any], Tensor]:
    return lambda attack: made


def batches_of(encoder: Encoder, train: Tensor) -> Any:
    def read() -> Iterator[TrainBatch]:
        for part in train.split(4):
            yield TrainBatch(Victim(encoder), part)

    return read


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("eps", [1 / 255, 0.3])
def test_one_perturbation_inside_the_ball_for_every_image(tiny_encoder: Encoder, norm: str, eps: float) -> None:
    own = attack(norm=norm, eps=eps)
    made = own.made_on(batches_of(tiny_encoder, images(8, 1)))
    assert made.shape == (3, 32, 32)
    assert float(own.threat.size(made[None])) <= eps * (1 + 1e-6)
    assert float(own.threat.size(made[None])) > 0.3 * eps
    test = images()
    found = own(Victim(tiny_encoder, universal=given(made)), test, [str(k) for k in range(COUNT)])
    assert torch.equal(found, own.threat.project(test + made, test))
    inside = (test + made).clamp(0, 1)
    assert (found - inside).abs().max() < 1e-6
    assert (NORMS[norm](eps).size(found - test) <= eps * (1 + 1e-5)).all()


def test_it_follows_the_seed_and_nothing_else(tiny_encoder: Encoder) -> None:
    train = images(8, 1)
    first = attack().made_on(batches_of(tiny_encoder, train))
    torch.manual_seed(5)
    assert torch.equal(first, attack().made_on(batches_of(tiny_encoder, train)))
    assert not torch.equal(first, attack(seed=1).made_on(batches_of(tiny_encoder, train)))
    assert not torch.equal(first, attack(objective="cosine").made_on(batches_of(tiny_encoder, train)))


def test_images_of_another_size_get_it_resized_and_inside_the_ball(tiny_encoder: Encoder) -> None:
    for norm, eps in (("linf", 8 / 255), ("l2", 0.5)):
        own = attack(norm=norm, eps=eps)
        made = own.made_on(batches_of(tiny_encoder, images(8, 1)))
        test = images(2, size=48)
        found = own(Victim(tiny_encoder, universal=given(made)), test, ["a", "b"])
        assert (NORMS[norm](eps).size(found - test) <= eps * (1 + 1e-5)).all()
        assert not torch.equal(found, test)


def test_without_training_images_it_is_an_error(tiny_encoder: Encoder) -> None:
    with pytest.raises(UserError, match="universal is made on training images, and these are none"):
        attack()(Victim(tiny_encoder), images(1), ["a"])
    with pytest.raises(UserError, match="has no training images"):
        attack().made_on(lambda: iter(()))
    with pytest.raises(UserError, match="unknown embedding objective 'l3'"):
        attack(objective="l3").made_on(batches_of(tiny_encoder, images(4)))


def test_it_is_not_checked_by_making_it_again() -> None:
    assert not is_checked_again(AttackSpec(name="universal"))
    assert not is_checked_again(AttackSpec(name="universal-task"))
    assert is_checked_again(AttackSpec(name="embed"))


CPU = torch.device("cpu")
TRAIN, TEST = 24, 5


@pytest.fixture
def train() -> Dataset:
    return load_dataset("scenes", split="train", limit=TRAIN, size=(16, 16))


def work(probes: SceneProbes, train: Dataset, name: str, target_task: str = "", **changes: Any) -> EvaluationSpec:
    models = {task: model for task, (model, _) in probes.fitted.items()}
    spec = AttackSpec.model_validate({"name": name, "steps": 4, **changes})
    made = UniversalPerturbations(probes.encoder.digest, dict.fromkeys(models, "heads"), train, code="code")
    test = load_dataset("scenes", limit=TEST, size=(16, 16))
    heads = [models["segmentation"].head]
    own = EvaluationSpec(probes.encoder, models, test, (spec,), target_task, list(models), 2, "fp32", CPU)
    return own._replace(surrogates=lambda size: heads, universal=made)


def only_one(own: EvaluationSpec) -> Tensor:
    """The perturbation that was made."""
    assert own.universal is not None
    (made,) = own.universal.known.values()
    return made


def attacked(own: EvaluationSpec) -> Tensor:
    kept = [one for (batch,) in evaluate(own, keep=range(TEST)) for one in batch.kept]
    return torch.stack([one.adversarial for one in kept])


def clean(own: EvaluationSpec) -> Tensor:
    return torch.stack([own.dataset[k].image for k in range(TEST)])


@pytest.mark.parametrize(
    ("name", "task", "objective"),
    [
        ("universal", "", ""),
        ("universal", "", "surrogate"),
        ("universal-task", "classification", ""),
        ("universal-task", "segmentation", "mask-ce-bal"),
        ("universal-task", "depth", "rmse"),
    ],
)
def test_every_batch_and_every_process_gets_the_same_one(
    scene_probes: SceneProbes, train: Dataset, name: str, task: str, objective: str
) -> None:
    own = work(scene_probes, train, name, task, objective=objective)
    found = attacked(own)
    made = only_one(own)
    assert torch.allclose(found, (clean(own) + made).clamp(0, 1), atol=1e-6)
    other = work(scene_probes, train, name, task, objective=objective)._replace(batch_size=5)
    assert torch.equal(attacked(other), found)
    again = only_one(other)
    assert torch.equal(made, again)


def test_test_images_have_no_part_in_it(
    scene_probes: SceneProbes, train: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = work(scene_probes, train, "universal", seed=11)
    assert own.universal is not None
    read: list[int] = []
    take = type(own.dataset).__getitem__

    def spied(self: Dataset, place: int) -> Any:
        if self is own.dataset:
            read.append(place)
        return take(self, place)

    monkeypatch.setattr(type(own.dataset), "__getitem__", spied)
    made = victim(own, {}, [0], (16, 16)).universal
    assert made is not None
    first = made(load_attack(own.attacks[0]))
    assert read == []
    fewer = load_dataset("scenes", split="train", limit=TRAIN // 2, size=(16, 16))
    other = work(scene_probes, fewer, "universal", seed=11)
    second = victim(other, {}, [0], (16, 16)).universal
    assert second is not None
    assert not torch.equal(first, second(load_attack(other.attacks[0])))


def test_the_cache_says_what_it_was_made_on(scene_probes: SceneProbes, train: Dataset) -> None:
    own = work(scene_probes, train, "universal", seed=12)
    attacked(own)
    assert own.universal is not None
    ((key, made),) = own.universal.known.items()
    stored = load_weights(key)
    assert stored is not None
    weights, facts = stored
    assert torch.equal(weights["perturbation"], made)
    assert facts == {"train": train.digest(), "images": TRAIN, "epochs": 4 * 32 / TRAIN}


def test_it_moves_the_embedding_of_new_images_further_than_noise() -> None:
    encoder = load_encoder("bundled:scenes")
    train, test = (load_dataset("scenes", split=split, limit=12) for split in ("train", "test"))
    shown = [torch.stack([data[k].image for k in range(12)]) for data in (train, test)]
    own = attack(steps=12)
    made = own.made_on(batches_of(encoder, shown[0]))
    ids = [str(k) for k in range(12)]
    noise = load_attack(AttackSpec(name="noise"))(Victim(encoder), shown[1], ids)
    found = own(Victim(encoder, universal=given(made)), shown[1], ids)
    with torch.no_grad():
        origin = encoder(shown[1])
        far, near = (embedding_distance(encoder(moved), origin) for moved in (found, noise))
    assert float(far.mean()) > 2 * float(near.mean())
    assert (far > near).all()
