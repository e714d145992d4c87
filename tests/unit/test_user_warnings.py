"""Warnings of public functions point at the caller's line, whichever way it came there."""

import ast
import inspect
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import robustprobe as rp

pytestmark = pytest.mark.unit

IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SOURCE = Path(rp.__file__).parent


def logits(images: Tensor) -> Tensor:
    return images.mean((2, 3)) * 9


def maps(images: Tensor) -> Tensor:
    return images * 9


LABELS, SKY = logits(IMAGES).argmax(1), torch.zeros(3, 8, 8, dtype=torch.int64)


def shares(images: Tensor) -> Tensor:
    return logits(images).softmax(1)


def flat(images: Tensor) -> Tensor:
    return logits(images.detach()) + 0 * logits(images)


@pytest.fixture
def doubtful(tmp_path: Path) -> str:
    """A dataset of which all masks are of one class."""
    for split, count in (("train", 12), ("test", 4)):
        for kind in ("images", "masks"):
            (tmp_path / kind / split).mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng(number + 99 * count).integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / split / f"{number}.png")
            Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "masks" / split / f"{number}.png")
    (tmp_path / "classes.txt").write_text("sky\nsea")
    return f"segfolder:{tmp_path}"


Call = Callable[[str], object]
SHORT: dict[str, Any] = {"epochs": 1, "learning_rates": (3e-3,)}
CALLS: dict[str, Call] = {
    "attack, labels": lambda _: rp.attack(maps, IMAGES, SKY, attack="segpgd", steps=1, task="segmentation"),
    "attack, outputs": lambda _: rp.attack(shares, IMAGES, LABELS, steps=1, task="classification"),
    "attack, zero gradient": lambda _: rp.attack(flat, IMAGES, LABELS, steps=1, task="classification"),
    "minimal_eps, labels": lambda _: rp.minimal_eps(maps, IMAGES, SKY, steps=1, task="segmentation"),
    "minimal_eps, outputs": lambda _: rp.minimal_eps(shares, IMAGES, LABELS, steps=1),
    "minimal_eps, zero gradient": lambda _: rp.minimal_eps(flat, IMAGES, LABELS, steps=1),
    "fit_probe": lambda name: rp.fit_probe("bundled:scenes", name, train_limit=8, **SHORT),
    "evaluate": lambda name: rp.evaluate(
        "bundled:scenes", name, "clean", head={"train_limit": 8, **SHORT}, sanity_images=0
    ),
}


def told(call: Callable[[], object]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return [one for one in found if one.category is UserWarning]


@pytest.mark.parametrize("case", CALLS)
def test_a_warning_points_at_the_line_that_called(case: str, doubtful: str) -> None:
    found = told(lambda: CALLS[case](doubtful))
    lines, start = inspect.getsourcelines(CALLS[case])
    assert found
    for one in found:
        assert one.filename == __file__, one.message
        assert start <= one.lineno < start + len(lines)


@contextmanager
def decorated() -> Any:
    yield


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda call: call(),
        lambda call: torch.no_grad()(call)(),
        lambda call: decorated()(call)(),
        lambda call: max([0], key=lambda _: len(call())),
        lambda call: partial(call)(),
    ],
)
def test_decorators_and_callbacks_between_do_not_matter(wrapped: Callable[[Callable[[], Any]], Any]) -> None:
    found = told(lambda: wrapped(partial(rp.minimal_eps, shares, IMAGES, LABELS, steps=1)))
    assert {one.filename for one in found} == {__file__}


def test_every_warning_goes_this_way() -> None:
    """What warns with a level of its own would point into the package as soon as a function stands between."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        if any(isinstance(one, ast.Attribute) and one.attr == "warn" for one in calls):
            found[path.relative_to(SOURCE).as_posix()] = True
    assert set(found) == {"__init__.py", "core/user_warnings.py"}
    users = [path for path in (SOURCE / "api").glob("*.py") if "warn_user(" in path.read_text()]
    assert {path.stem for path in users} == {"attack_images", "evaluate_encoders", "fit_heads"}, "name it in CALLS"
