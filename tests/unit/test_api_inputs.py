"""`rp.attack`, `rp.evaluate` and `rp.fit_probe` on what people hand in: types, modes, answers and ways to call them."""

import copy
import functools
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import robustprobe as rp
from robustprobe import AttackResult, UserError
from robustprobe.evaluation import memory

pytestmark = pytest.mark.unit


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> nn.Sequential:
    layers = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(parameter.numel())))
    return layers.eval()


NET = network()
IMAGES = torch.rand(3, 3, 12, 12, generator=seeded(1))
LABELS = NET(IMAGES).argmax(1)


def attacked(model: Any = NET, images: Any = IMAGES, targets: Any = LABELS, **options: Any) -> AttackResult:
    return rp.attack(model, images, targets, **{"task": "classification", "steps": 2, **options})


USUAL = attacked()


@contextmanager
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


MODES: dict[str, Callable[[], Any]] = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "float64": float64,
    "autocast": functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("attack", ["pgd", "apgd", "square", "ensemble", "min-eps", "noise"])
def test_modes_of_the_caller_change_nothing(mode: str, attack: str) -> None:
    outside = attacked(attack=attack)
    with MODES[mode]():
        inside = attacked(attack=attack, images=IMAGES.clone(), targets=LABELS.clone())
    assert torch.equal(inside.adversarial, outside.adversarial)
    assert torch.equal(inside.score, outside.score)
    assert not inside.adversarial.is_inference()
    assert torch.get_default_dtype() == torch.float32


GIVEN: dict[str, dict[str, Any]] = {
    "array": {"images": IMAGES.numpy(), "targets": LABELS.numpy()},
    "float64 array": {"images": IMAGES.double().numpy(), "targets": LABELS.numpy().astype(np.uint8)},
    "list of tensors": {"images": list(IMAGES), "targets": LABELS.tolist()},
    "tuple of arrays": {"images": tuple(IMAGES.numpy()), "targets": tuple(LABELS)},
    "history": {"images": IMAGES.clone().requires_grad_()},
    "float64 tensor": {"images": IMAGES.double()},
    "memory order": {"images": IMAGES.contiguous(memory_format=torch.channels_last)},
    "view": {"images": IMAGES.flip(3).clone().flip(3)},
    "numbers as ids": {"ids": range(3)},
    "NumPy's ids": {"ids": np.arange(3)},
    "tensor of ids": {"ids": torch.arange(3)},
    "NumPy's eps": {"eps": np.float64(8 / 255)},
    "eps without axes": {"eps": torch.tensor(8 / 255, dtype=torch.float64)},
    "fraction": {"eps": Fraction(8, 255)},
    "one of each in a list": {"eps": [8 / 255], "attack": ["pgd"], "task": ("classification",)},
    "NumPy's numbers": {"steps": np.int64(2), "seed": torch.tensor(0), "restarts": np.int32(1)},
}


@pytest.mark.parametrize("case", GIVEN)
def test_the_same_content_gives_the_same_images(case: str) -> None:
    found = attacked(**GIVEN[case])
    assert torch.equal(found.adversarial, USUAL.adversarial)
    assert torch.equal(found.score, USUAL.score)
    assert not found.adversarial.requires_grad


Pair = namedtuple("Pair", "loss logits")

ANSWERS: dict[str, Callable[[Tensor], Any]] = {
    "dictionary": lambda images: {"loss": 0, "logits": NET(images)},
    "torchvision's segmenters": lambda images: {"out": NET(images), "aux": NET(images) * 0},
    "named tuple": lambda images: Pair(NET(images).sum(), NET(images)),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_logits_are_taken_from_what_a_model_answers(case: str) -> None:
    assert torch.equal(attacked(ANSWERS[case]).adversarial, USUAL.adversarial)


def test_maps_in_a_dictionary_are_upsampled() -> None:
    masks = torch.zeros(3, 12, 12, dtype=torch.int64)
    maps = nn.Conv2d(3, 4, 3, 2)
    plain, named = (
        rp.attack(model, IMAGES, masks, attack="segpgd", task="segmentation", steps=2)
        for model in (maps, lambda images: {"logits": maps(images)})
    )
    assert torch.equal(plain.adversarial, named.adversarial)


@pytest.mark.parametrize("attack", ["pgd", "square", "noise", "clean"])
def test_a_model_that_writes_into_its_input_changes_nobodys_images(attack: str) -> None:
    def normalising(images: Tensor) -> Tensor:
        found: Tensor = NET(images.sub_(0.25).mul_(2))
        return found

    given = IMAGES.clone()
    found = attacked(normalising, given, attack=attack)
    assert torch.equal(given, IMAGES)
    same = attacked(lambda images: NET((images - 0.25) * 2), attack=attack)
    assert torch.equal(found.adversarial, same.adversarial)
    moved = rp.attack(normalising, given, attack="embed", steps=2).adversarial
    assert torch.equal(given, IMAGES)
    assert (moved - IMAGES).abs().max() <= 8 / 255 + 1e-6


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_another_type(kind: torch.dtype) -> None:
    found = attacked(copy.deepcopy(NET).to(kind))
    assert found.adversarial.dtype == (torch.float64 if kind == torch.float64 else torch.float32)
    assert (found.adversarial - IMAGES).abs().max() <= 8 / 255 + 1e-6


def test_a_batch_without_images() -> None:
    found = attacked(images=IMAGES[:0], targets=LABELS[:0])
    assert (found.adversarial.shape, found.score.shape) == ((0, 3, 12, 12), (0,))
    assert rp.attack(NET, IMAGES[:0], attack="embed").score.shape == (0,)
    assert rp.minimal_eps(NET, IMAGES[:0], LABELS[:0]).shape == (0,)


def test_minimal_eps_takes_arrays() -> None:
    given: dict[str, Any] = {"eps": "16/255", "steps": 2}
    arrays = rp.minimal_eps(NET, IMAGES.numpy(), LABELS.tolist(), ids=[0, 1, 2], **given)
    assert torch.equal(arrays, rp.minimal_eps(NET, IMAGES, LABELS, **given))


class One(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))[:, None]


def made_in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return copy.deepcopy(NET)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "one logit": ({"model": One(), "targets": LABELS * 0}, "answers one logit.*make two logits"),
    "other dictionary": (
        {"model": lambda x: {"x": NET(x)}},
        r"answers dict; .*lambda images: model\(images\)\[\.\.\.\]",
    ),
    "tuple": ({"model": lambda x: (NET(x), NET(x))}, r"answers tuple; .*model\(images\)\[\.\.\.\]"),
    "embed of a tuple": ({"model": lambda x: (NET(x),), "attack": "embed", "task": None}, "answers tuple; embed moves"),
    "a name": ({"model": "resnet18"}, r"the model is a str; .*load_encoder"),
    "a class": ({"model": One}, "the model is the class One"),
    "weights": ({"model": made_in_inference_mode()}, r"made inside torch.inference_mode.*copy.deepcopy"),
    "channels last": ({"images": IMAGES.movedim(1, -1)}, r"channels seem to be last.*permute\(0, 3, 1, 2\)"),
    "one image": ({"images": IMAGES[0]}, r"shape \(3, 12, 12\).*images\[None\]"),
    "one channel": ({"images": IMAGES[:, :1]}, r"the model fails on an image \(1, 1, 12, 12\).*3 channels"),
    "sizes": ({"images": [IMAGES[0], IMAGES[1, :, :6]]}, r"several sizes.*resize"),
    "8-bit array": ({"images": (IMAGES * 255).byte().numpy()}, "Divide 8-bit images by 255"),
    "rounded": ({"images": IMAGES.clone().fill_(1.00001)}, r"1\.00001.*images\.clamp\(0, 1\)"),
    "NaN": ({"images": torch.full_like(IMAGES, torch.nan)}, "images hold NaN"),
    "no values": ({"images": IMAGES.to("meta")}, "device meta"),
    "text": ({"images": "photos"}, "images are a str"),
    "text as labels": ({"targets": ["cat", "dog", "cat"]}, "targets cannot be read as numbers"),
    "one-hot": ({"targets": nn.functional.one_hot(LABELS, 4)}, r"shape \(3, 4\).*targets\.argmax\(1\)"),
    "column": ({"targets": LABELS[:, None]}, r"shape \(3, 1\).*targets\[:, 0\]"),
    "several eps": ({"eps": ["4/255", "8/255"]}, "eps is a list of 2; give one"),
    "several attacks": ({"attack": ["pgd", "apgd"]}, "attack is a list of 2; give one.*robustprobe.evaluate"),
    "capitals": ({"attack": "PGD"}, r"unknown attack 'PGD'\. Did you mean 'pgd'"),
    "one name for three": ({"ids": "abc"}, "1 ids for 3 images"),
    "None": ({"ids": [None] * 3}, "an id is None"),
    "precision": ({"precision": "fp16"}, "precision is 'fp16'; expected 'fp32' or 'bf16'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused_with_what_to_do(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as caught:
        attacked(**changes)
    assert not str(caught.value).endswith("..")


def test_batches_follow_the_memory_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image gets what it gets in one batch, labels, ids and goals with it."""
    sizes: list[int] = []

    def counting(images: Tensor) -> Tensor:
        sizes.append(len(images))
        found: Tensor = NET(images)
        return found

    monkeypatch.setattr(memory, "SMALL_PIXELS", 0)
    monkeypatch.setattr(memory, "PROBE_PIXELS", 144)
    monkeypatch.setattr(memory, "bytes_of", lambda call, device: (call(), 2**20)[1])
    monkeypatch.setattr(memory, "free_memory", lambda device: 2 * 2 * 2**20)
    wrong = (LABELS + torch.tensor([0, 1, 0])) % 4
    parts = attacked(counting, targets=wrong, ids=["a", "b", "c"])
    assert max(sizes) == 2
    monkeypatch.setattr(memory, "free_memory", lambda device: None)
    whole = attacked(counting, targets=wrong, ids=["a", "b", "c"])
    assert max(sizes) == 3
    assert torch.equal(parts.score, whole.score)
    torch.testing.assert_close(parts.adversarial, whole.adversarial, rtol=0, atol=1e-6)


SMALL: dict[str, Any] = {"tasks": "classification", "limit": 3, "steps": 1, "sanity_images": 0, "extreme_examples": 0}


@pytest.mark.parametrize("mode", ["inference_mode", "float64"])
def test_evaluate_and_fit_probe_in_every_mode(mode: str) -> None:
    given = {**SMALL, "head": {"train_limit": 8, "epochs": 1}}
    outside = rp.evaluate("bundled:scenes", "scenes", "pgd", **given)
    with MODES[mode]():
        inside = rp.evaluate(rp.load_encoder("bundled:scenes"), ("scenes",), ["pgd"], **given)
        model = rp.fit_probe("bundled:scenes", ["scenes"], task=["classification"], train_limit=np.int64(9), epochs=1)  # type: ignore[arg-type]
    assert inside.value.tolist() == outside.value.tolist()
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_wrapped_network_in_half_precision_is_evaluated() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 6, 8, 8), nn.ReLU()).half()
    encoder = rp.wrap(layers, input_size=32)
    assert rp.evaluate(encoder, "scenes", "pgd", head={"train_limit": 8, "epochs": 1}, **SMALL).value.notna().all()
    images = torch.rand(2, 3, 64, 64, generator=seeded(0))
    with pytest.raises(UserError, match=r"bundled:scenes has weights of torch.float16 .*encoder.float\(\)"):
        rp.load_encoder("bundled:scenes").half()(images)


def test_a_dataset_in_place_of_its_name_is_refused(tmp_path: Path) -> None:
    data = rp.load_dataset("scenes")
    with pytest.raises(UserError, match="evaluate takes names of datasets, not a Scenes"):
        rp.evaluate("bundled:scenes", data, "pgd", **SMALL)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="fit_probe takes the name of a dataset, not a Scenes"):
        rp.fit_probe("bundled:scenes", data, task="classification")  # type: ignore[arg-type]


PICTURE = Image.new("RGB", (8, 6))


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (PICTURE, r"images are a Image; .* Write to_tensor\(image\)\[None\]"),
        ([PICTURE, PICTURE], r"a list of PIL images; .* Write torch.stack\(\[to_tensor\(i\) for i in images\]\)"),
        (np.zeros((2, 6, 8, 3), np.uint8), r"Write images.permute\(0, 3, 1, 2\) / 255"),
        (np.zeros((2, 6, 8, 3), np.float32), r"Write images.permute\(0, 3, 1, 2\)\.$"),
    ],
)
def test_images_of_other_libraries_are_answered_with_what_to_write(images: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        rp.attack(nn.Flatten(), images, [0, 1], attack="pgd", task="classification")


def test_labels_that_are_text_are_not_said_to_be_images() -> None:
    with pytest.raises(UserError, match="targets are a str; expected a class for each image"):
        rp.attack(nn.Flatten(), torch.rand(1, 3, 4, 4), "cat", attack="pgd", task="classification")


@pytest.mark.parametrize("wrong", [object(), {"a": 1}, [3], 1.5, b"x"], ids=lambda value: type(value).__name__)
def test_a_wrong_type_for_any_keyword_of_load_dataset_is_one_clear_error(wrong: Any) -> None:
    for keyword in ("name", "root", "split", "limit", "size", "tasks"):
        if (keyword, wrong) in [("root", b"x")]:
            continue  # a path in bytes is a path
        with pytest.raises(UserError) as found:
            rp.load_dataset(**{"name": "scenes", keyword: wrong})
        assert str(found.value).isprintable()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"size": "32"}, r"expected \(H, W\), or one number of pixels for the shorter side, got '32'"),
        ({"size": (32, 0)}, r"expected \(H, W\)"),
        ({"limit": [3]}, "limit: expected a whole number, got"),
        ({"name": None}, "name: expected text, got None"),
        ({"root": 3}, "root"),
        ({"tasks": 3}, "tasks: expected a list, got 3"),
    ],
)
def test_what_load_dataset_is_asked_for_is_checked(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        rp.load_dataset(**{"name": "scenes", **wrong})


def test_a_wrong_part_of_a_list_is_no_empty_list() -> None:
    with pytest.raises(UserError, match=r"datasets\.0\.name: expected text, got None\.$"):
        rp.evaluate("bundled:scenes", None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"size is '32'; give one number of pixels"):
        rp.evaluate("bundled:scenes", "scenes", size="32")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="out is 3; give the folder that keeps the results, as a path"):
        rp.evaluate("bundled:scenes", "scenes", out=3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="device is a list; give a name, such as cpu"):
        rp.evaluate("bundled:scenes", "scenes", device=[3])  # type: ignore[arg-type]


def test_a_former_name_of_an_argument_gets_todays() -> None:
    with pytest.raises(rp.UserError, match=r"checks is called sanity_images now\."):
        cast(Any, rp.evaluate)("bundled:scenes", "scenes", "clean", checks=0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'chekcs'"):
        cast(Any, rp.evaluate)("bundled:scenes", "scenes", "clean", chekcs=0)
