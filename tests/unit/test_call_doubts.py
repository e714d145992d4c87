"""What `rp.attack` says of calls that are legal but implausible, and that it says nothing of ordinary ones."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustprobe as rp

pytestmark = pytest.mark.unit

IMAGES = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
WEIGHTS = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))


def network(images: Tensor) -> Tensor:
    return 9 * (images.mean((2, 3)) - 0.5) @ WEIGHTS


LABELS = network(IMAGES).argmax(1)


def told(model: Callable[[Tensor], Any], labels: Tensor = LABELS, **options: Any) -> list[str]:
    options = {"steps": 1, "task": "classification", **options}
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        rp.attack(model, IMAGES[: len(labels)], labels, **options)
    return [str(one.message) for one in found if one.category is UserWarning]


def noisy(images: Tensor) -> Tensor:
    return network(images) + torch.randn(len(images), 3)


def centred(images: Tensor) -> Tensor:
    return network(images) - network(images).mean(0)


def half(images: Tensor) -> Tensor:
    return network(images).bfloat16()


DEPTH = 1 + 4 * IMAGES.mean(1)


def depth_of(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda images: change(1 + 4 * images.mean(1))


def classes(answers: Callable[[Tensor], Tensor], count: int = 12) -> Callable[[Tensor], Tensor]:
    weights = torch.randn(3, count, generator=torch.Generator().manual_seed(2))
    return lambda images: answers(9 * (images.mean((2, 3)) - 0.5) @ weights)


WRONG = (LABELS + 1) % 3
OF_TWELVE = classes(lambda logits: logits)(IMAGES).argmax(1)
OF_DEPTH = {"task": "depth", "attack": "depthpgd"}


@pytest.mark.parametrize(
    ("model", "labels", "options", "words"),
    [
        (network, WRONG, {}, "right on none of the first 8 images"),
        (noisy, LABELS, {}, "answers at random, or remembers earlier calls"),
        (centred, LABELS, {}, "depends on the other images of the batch"),
        (network, LABELS, {"norm": "l2", "eps": "1/255"}, "l2 eps 0.00392157 is too small to matter; usual at 16 x 16"),
        (network, LABELS, {"norm": "l2", "eps": 255}, "l2 eps 255 is enough to turn any image grey"),
        (classes(torch.sigmoid), OF_TWELVE, {}, "all of them are from 0 to 1, as those of sigmoids: give logits"),
        (classes(lambda x: x.softmax(1)), OF_TWELVE, {}, "these are probabilities, give logits"),
        (depth_of(lambda d: 1 / d), DEPTH, OF_DEPTH, "falls where depth rises, as inverse depth (disparity) does"),
        (depth_of(lambda d: 1000 * d), DEPTH, OF_DEPTH, "it is 1e+03 times the labels in the median"),
        (depth_of(lambda d: d / 100), DEPTH, OF_DEPTH, "it is 0.01 times the labels in the median"),
        (depth_of(lambda d: d.flip(1) + 1.5), DEPTH, OF_DEPTH, "where a constant answer has"),
    ],
)
def test_an_implausible_call_is_told_what_is_implausible(
    model: Callable[[Tensor], Any], labels: Tensor, options: dict[str, Any], words: str
) -> None:
    found = told(model, labels, **options)
    assert [words in text for text in found] == [True], found


@pytest.mark.parametrize(
    ("model", "labels", "options"),
    [
        (network, LABELS, {}),
        (half, LABELS, {}),
        (nn.Sequential(nn.Flatten(), nn.Linear(768, 3), nn.Dropout(), nn.BatchNorm1d(3)), LABELS[:3], {}),
        (network, WRONG[:3], {}),
        (network, torch.where(torch.arange(8) < 1, LABELS, WRONG), {}),
        (noisy, LABELS, {"eot_samples": 2, "judgements": 2}),
        (network, LABELS, {"attack": "min-eps"}),
        (classes(lambda x: x.log_softmax(1)), OF_TWELVE, {}),
        (depth_of(lambda d: d), DEPTH, OF_DEPTH),
        (depth_of(lambda d: 1.3 * d), DEPTH, OF_DEPTH),
        (depth_of(lambda d: 1 / d), DEPTH[:3], OF_DEPTH),
    ],
)
def test_an_ordinary_call_is_told_nothing(
    model: Callable[[Tensor], Any], labels: Tensor, options: dict[str, Any]
) -> None:
    assert told(model, labels, **options) == []


def test_a_random_model_answers_as_if_it_had_not_been_looked_at() -> None:
    before = torch.random.get_rng_state()
    told(noisy, attack="clean")
    assert not torch.equal(torch.random.get_rng_state(), before), "the attack itself asks it"
    torch.manual_seed(5)
    first = rp.attack(noisy, IMAGES, LABELS, attack="clean", task="classification", judgements=2).score
    torch.manual_seed(5)
    assert torch.equal(
        first, rp.attack(noisy, IMAGES, LABELS, attack="clean", task="classification", judgements=2).score
    )


@pytest.mark.parametrize("scale", [1, 2])
def test_maps_with_their_channels_last_are_refused(scale: int) -> None:
    def maps(images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images, scale).permute(0, 2, 3, 1)

    labels = torch.zeros(8, 16, 16, dtype=torch.int64)
    with pytest.raises(
        rp.UserError, match=r"its channels seem to be last\. Write lambda images: .*permute\(0, 3, 1, 2"
    ):
        told(maps, labels, task="segmentation", attack="segpgd")
    assert told(lambda i: maps(i).permute(0, 3, 1, 2), labels + 1, task="segmentation", attack="segpgd") is not None
