"""Every public function with arguments of types that are not meant: it works, or one `UserError` says what to do."""

import dataclasses
import inspect
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

import robustprobe as rp
from robustprobe import Encoder, Results, UserError, probing
from robustprobe.api import attack_images, evaluate_encoders, harden_encoder
from robustprobe.cli._options import AttackOptions, DataOptions, MachineOptions
from robustprobe.core.arguments import checked_types
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.head_spec import HeadSpec
from robustprobe.core.spec import DatasetSpec, Suite
from robustprobe.training.spec import HardenSpec

pytestmark = pytest.mark.unit

AWKWARD: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "bytes": lambda: b"x",
    "object": object,
    "dictionary": lambda: {"a": 1},
    "empty list": list,
    "list": lambda: [3],
    "mixed list": lambda: [-1, "a", None],
    "list of text": lambda: ["x", "y"],
    "tuple": lambda: (1, 2, 3),
    "set": lambda: {"x"},
    "range": lambda: range(3),
    "iterator": lambda: iter([1]),
    "fraction": lambda: Fraction(1, 2),
    "whole number": lambda: 3,
    "negative": lambda: -1,
    "NaN": lambda: math.nan,
    "infinity": lambda: math.inf,
    "truth": lambda: True,
    "complex": lambda: 1j,
    "text": lambda: "x",
    "no text": lambda: "",
    "no path": lambda: "a\0b",
    "path": lambda: Path("x"),
    "NumPy's whole number": lambda: np.int64(2),
    "NumPy's number": lambda: np.float64(0.5),
    "array": lambda: np.zeros((2, 2)),
    "tensor": lambda: torch.zeros(2, 2),
    "class": lambda: nn.Flatten,
    "network": lambda: nn.Linear(2, 2),
    "function": lambda: lambda images: images,
    "loader": lambda: torch.utils.data.DataLoader([1]),  # type: ignore[arg-type]
    "device": lambda: torch.device("cpu"),
    "type": lambda: torch.float32,
}
FUNCTIONS = [name for name in rp.__all__ if inspect.isfunction(getattr(rp, name))]
FIELDS = {"harden": HardenSpec, "fit_probe": HeadSpec}
"""What functions take beside the parameters in their signature."""


MOST_TEXT = 1200


class StoppedError(Exception):
    """The work would start now."""


def stop(*given: Any, **more: Any) -> Any:
    raise StoppedError


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    small: dict[str, Any] = {"tasks": "classification", "limit": 2, "sanity_images": 0, "extreme_examples": 0}
    folder = tmp_path_factory.mktemp("results") / "run"
    return rp.evaluate("bundled:scenes", "scenes", "clean", head={"train_limit": 8, "epochs": 1}, out=folder, **small)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return rp.load_encoder("bundled:scenes")


def usual(name: str, results: Results, encoder: Encoder, folder: Path) -> dict[str, Any]:
    images, labels = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    calls: dict[str, dict[str, Any]] = {
        "attack": {"model": layers, "images": images, "targets": labels, "task": "classification", "steps": 1},
        "minimal_eps": {"model": layers, "images": images, "targets": labels, "steps": 1},
        "harden": {"encoder": encoder, "dataset": "scenes", "limit": 4, "epochs": 1},
        "fit_probe": {"encoder": encoder, "dataset": "scenes", "task": "classification"},
        "evaluate": {"encoder": encoder, "datasets": "scenes", "attacks": "clean", "limit": 2, "out": folder / "out"},
        "compare": {"first": results, "second": results},
        "plot": {"results": results},
        "write_report": {"results": results, "path": folder / "page.html"},
        "load_results": {"folder": results.stores[0].folder},
        "wrap": {"network": nn.Conv2d(3, 4, 8, 8), "input_size": 32},
        "zero_shot": {"encoder": encoder, "texts": folder / "none.safetensors"},
        "show": {"result": results},
        "load_encoder": {"spec": "bundled:scenes"},
        "load_dataset": {"name": "scenes"},
    }
    return calls[name]


def parameters(name: str) -> list[str]:
    signature = inspect.signature(getattr(rp, name)).parameters.values()
    named = [p.name for p in signature if p.kind is not inspect.Parameter.VAR_KEYWORD]
    return [*named, *(f for f in getattr(FIELDS.get(name), "model_fields", ()) if f not in named)]


def call(name: str, given: dict[str, Any], more: str = "") -> None:
    rest = [given.pop(more)] if more in given else []
    getattr(rp, name)(*(given.values() if rest else ()), *rest, **({} if rest else given))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_argument_of_any_type_works_or_is_refused_in_one_sentence(
    name: str, results: Results, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for module, work in (
        (harden_encoder, "run"),
        (evaluate_encoders, "execute"),
        (probing, "plan_heads"),
        (attack_images, "load_attack"),
    ):
        monkeypatch.setattr(module, work, stop)
    said = []
    for parameter in parameters(name):
        for case, make in AWKWARD.items():
            try:
                call(name, {**usual(name, results, encoder, tmp_path), parameter: make()}, "more")
            except StoppedError:
                continue
            except UserError as error:
                said.append(str(error))
            except Exception as error:
                pytest.fail(f"{name}({parameter}={case}) ends in {type(error).__name__}: {error}")
    assert said or name == "show"
    assert [text for text in said if len(text) > MOST_TEXT or "validation error" in text] == []


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: rp.harden(nn.Flatten(), "scenes"), "harden takes an encoder or its name, not a Flatten; wrap it"),  # type: ignore[arg-type]
        (lambda: rp.harden(Encoder, "scenes"), "harden takes an encoder or its name, not the class Encoder; give one"),  # type: ignore[arg-type]
        (lambda: rp.harden("bundled:scenes", 3), r"dataset is 3; give text \(one or several\)\."),  # type: ignore[arg-type]
        (lambda: rp.harden("bundled:scenes", ["scenes", None]), r"dataset\[1\] is None; give text"),  # type: ignore[list-item]
        (lambda: rp.harden("bundled:scenes", "scenes", rp.Defence), "method is the class Defence; give text"),  # type: ignore[arg-type]
        (lambda: rp.harden("bundled:scenes", "scenes", epochs="3"), "epochs is '3'; give a whole number or None"),  # type: ignore[arg-type]
        (lambda: rp.harden("bundled:scenes", "scenes", epochs=True), "epochs is True; give a whole number"),
        (lambda: rp.harden("bundled:scenes", "scenes", progress="no"), "progress is 'no'; give True or False or None"),  # type: ignore[arg-type]
        (lambda: rp.harden("bundled:scenes", "scenes", options=2), "options are 2; give a dictionary"),
        (lambda: rp.harden("bundled:scenes", "scenes", steps=True), "steps: expected a number, got True"),
        (lambda: rp.harden("bundled:scenes", "scenes", out=4), "out is 4; give the folder that keeps"),  # type: ignore[arg-type]
        (lambda: rp.harden("bundled:scenes", "scenes", device=False), "device is False; give a name, such as cpu"),  # type: ignore[arg-type]
        (lambda: rp.fit_probe("bundled:scenes", "scenes", task="classification", knn=-1), "knn: expected"),
        (lambda: rp.wrap(nn.Flatten(), mean="imagenet"), r"mean is 'imagenet'; give a number \(one or several\)"),  # type: ignore[arg-type]
        (lambda: rp.wrap(nn.Flatten(), input_size=(32, "x")), r"input_size\[1\] is 'x'"),  # type: ignore[arg-type]
        (lambda: rp.wrap(nn.Flatten(), patch_size=0), "a side of 0 pixels is none"),
        (lambda: rp.load_encoder(Path("my.py")), "spec is a PosixPath; give the name of an encoder"),  # type: ignore[arg-type]
        (lambda: rp.load_results(["a", "b"]), "folder is a list; give text or a path"),  # type: ignore[arg-type]
        (lambda: rp.load_results("a", 3), r"more\[0\] is 3; give text or a path"),  # type: ignore[arg-type]
        (lambda: rp.plot([]), "plot takes results, not an empty list; give what evaluate gave"),
        (lambda: rp.compare(None), "compare takes results, not None; give what evaluate gave"),  # type: ignore[arg-type]
        (lambda: rp.plot("a", kind=None), "kind is None; give 'profile' or 'eps' or 'pareto'"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_messages_say_what_came_and_what_to_give(call: Callable[[], object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        call()


def test_what_reads_as_the_type_is_taken_as_it() -> None:
    @checked_types()
    def seen(count: int, share: float, names: str | list[str], size: int | tuple[int, int]) -> list[Any]:
        return [count, share, names, size]

    found = seen(np.int64(2), Fraction(1, 2), np.array(["b", "a"]), np.array([3, 4]))  # type: ignore[arg-type]
    assert found == [2, Fraction(1, 2), ["b", "a"], (3, 4)]
    assert type(found[0]) is int
    assert seen(torch.tensor(1), np.float32(0.5), {"b", "a"}, 3) == [1, 0.5, ["a", "b"], 3]  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="missing 3 required"):
        seen(1)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", [AttackSpec, Suite, HeadSpec, DatasetSpec, HardenSpec])
def test_true_is_no_number_in_any_description(kind: Any) -> None:
    """YAML reads `steps: yes` as True, which Python takes for 1."""
    counts = [name for name, field in kind.model_fields.items() if "int" in str(field.annotation)]
    assert counts
    for name in counts:
        with pytest.raises(ValidationError, match=rf"(?s)\n{name}\n[^\n]*expected a number, got True"):
            kind.model_validate({name: True})


def test_every_option_of_run_that_numbers_depend_on_is_an_argument_of_evaluate() -> None:
    called = {
        **{"attack": "attacks", "dataset": "datasets", "task": "tasks"},
        **{"image_size": "size", "data_root": "root"},
    }
    kinds = (DataOptions, AttackOptions, MachineOptions)
    options = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    assert {called.get(name, name) for name in options} <= set(inspect.signature(rp.evaluate).parameters)


def test_patches_are_asked_for_from_python_as_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[Suite] = []

    def plan(suite: Suite, *given: Any, **more: Any) -> Any:
        planned.append(suite)
        raise StoppedError

    monkeypatch.setattr(evaluate_encoders, "make_plan", plan)
    cases: list[tuple[Any, Any]] = [("5%", (0.05,)), (["1%", 0.2], (0.01, 0.2)), (None, None)]
    for area, expected in cases:
        with pytest.raises(StoppedError):
            rp.evaluate("bundled:scenes", "scenes", "patch", area=area, position="centre", position_samples=2)
        suite = planned.pop()
        assert (suite.area, suite.position, suite.position_samples) == (expected, "centre", 2)
    with pytest.raises(UserError, match=r"area 0\.9 is not above 0 and at most 50%"):
        rp.evaluate("bundled:scenes", "scenes", "patch", area=0.9)
