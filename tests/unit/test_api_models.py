"""`rp.attack` on models of the user's own: networks they hide, threads, what they answer, and labels that mislead."""

import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustprobe as rp
from robustprobe import AttackResult, UserError
from robustprobe.core.freeze import frozen

pytestmark = pytest.mark.unit

IMAGES = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def normed() -> nn.Sequential:
    """A network that answers otherwise in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.Dropout(0.5)
        return nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))


NET = normed()
LABELS = NET.eval()(IMAGES).argmax(1)


def attacked(model: Any = NET, images: Any = IMAGES, targets: Any = LABELS, **options: Any) -> AttackResult:
    return rp.attack(model, images, targets, **{"task": "classification", "steps": 2, **options})


HIDDEN: dict[str, nn.Module] = {}


class ByName:
    """Finds its network by a name in a place that no attribute leads to."""

    @property
    def network(self) -> nn.Module:
        return globals()["HIDDEN"]["here"]  # type: ignore[no-any-return]

    def __call__(self, images: Tensor) -> Any:
        return self.network(images)


def by_reference(network: nn.Module) -> Callable[[Tensor], Any]:
    held = weakref.ref(network)
    return lambda images: held()(images)  # type: ignore[misc]


@pytest.mark.parametrize("hide", [by_reference, lambda network: ByName()])
def test_networks_that_no_attribute_leads_to_are_attacked_in_evaluation_mode(hide: Any) -> None:
    network = normed().train()
    HIDDEN["here"] = network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = attacked(hide(network))
    assert torch.equal(found.adversarial, attacked().adversarial)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_threads_that_attack_one_network_leave_it_as_it_was() -> None:
    network = normed().train()
    with ThreadPoolExecutor(4) as pool:
        scores = list(pool.map(lambda _: attacked(network).score, range(8)))
    assert all(torch.equal(score, scores[0]) for score in scores)
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_the_last_to_leave_puts_flags_back() -> None:
    network = normed().train()
    network[1].eval()
    first, second = frozen(network), frozen(network)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not network.training
    assert not network[0].weight.requires_grad
    second.__exit__(None, None, None)
    assert network.training
    assert not network[1].training
    assert network[0].weight.requires_grad


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "axes exchanged": ({"model": lambda x: NET(x).T}, r"answers \(4, 1\) for 1 image; the first axis must be"),
    "an image lost": ({"model": lambda x: NET(x)[: max(1, len(x) - 1)]}, r"answers \(3, 4\) for 4 images"),
    "squeezed": ({"model": lambda x: NET(x).squeeze(), "images": IMAGES[:1], "targets": LABELS[:1]}, r"\(4,\) for 1"),
    "mean": ({"model": lambda x: NET(x).mean()}, r"answers \(\) for 4 images"),
    "whole numbers": ({"model": lambda x: NET(x).round().int()}, "answers torch.int32; an attack needs"),
    "array": ({"model": lambda x: NET(x).detach().numpy()}, "answers an array, which has no gradient"),
    "device meta": ({"model": normed().to("meta")}, "weights on the device meta, which holds no values"),
    "nested": ({"images": torch.nested.nested_tensor([IMAGES[0], IMAGES[1]])}, "images are a nested tensor"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_answers_that_are_not_one_per_image_are_refused(case: str) -> None:
    changes, says = REFUSED[case]
    with pytest.raises(UserError, match=says):
        attacked(**changes)


class Decorated(torch.Tensor):
    """A tensor of another type, such as torchvision's images."""


GIVEN: dict[str, dict[str, Any]] = {
    "subclass": {"images": IMAGES.as_subclass(Decorated)},
    "parameter": {"images": nn.Parameter(IMAGES.clone())},
    "mirrored array": {"images": np.ascontiguousarray(IMAGES.numpy()[..., ::-1])[..., ::-1]},
    "other byte order": {"images": IMAGES.numpy().astype(">f4"), "targets": LABELS.numpy().astype(">i8")},
    "series": {"targets": __import__("pandas").Series(LABELS.tolist())},
}


@pytest.mark.parametrize("case", GIVEN)
def test_images_and_labels_of_other_kinds_are_the_same(case: str) -> None:
    found = attacked(**GIVEN[case])
    assert type(found.adversarial) is Tensor
    assert torch.equal(found.adversarial, attacked().adversarial)


def test_the_default_device_of_the_caller_changes_nothing() -> None:
    usual = attacked()
    with torch.device("meta"):
        found = attacked()
        encoder = rp.load_encoder("timm:test_vit.random")
    assert torch.equal(found.adversarial, usual.adversarial)
    assert {parameter.device.type for parameter in encoder.parameters()} == {"cpu"}


SEGMENTER = nn.Conv2d(3, 5, 3, padding=1).eval()
MASKS = torch.randint(0, 5, (4, *IMAGES.shape[2:]), generator=torch.Generator().manual_seed(0))
WARNED: dict[str, tuple[Any, str, Any, str]] = {
    "all ignored": (SEGMENTER, "segmentation", torch.full_like(MASKS, 255), r"of images 0, 1, 2, 3 no label counts"),
    "one ignored": (SEGMENTER, "segmentation", MASKS.index_fill(0, LABELS[:1] * 0 + 2, 255), "of images 2 no label"),
    "0 and 255": (SEGMENTER, "segmentation", (MASKS > 2) * 255, "every labelled pixel is 0, .*write masks of 0 and 1"),
    "no depth": (lambda x: x.mean(1), "depth", torch.full((4, 12, 12), torch.inf), "no label counts"),
    "millimetres": (lambda x: x.mean(1), "depth", torch.full((4, 12, 12), 2500.0), "up to 2500 m: check the unit"),
    "probabilities": (lambda x: NET(x).softmax(1), "classification", LABELS, "these are probabilities, give logits"),
}  # fmt: skip


@pytest.mark.parametrize("case", WARNED)
def test_labels_and_answers_that_make_little_sense_are_warned_about(case: str) -> None:
    model, task, targets, says = WARNED[case]
    with pytest.warns(UserWarning, match=says) as found:
        rp.attack(model, IMAGES, targets, attack="noise", task=task, steps=1)
    assert {warning.filename for warning in found} == {__file__}
