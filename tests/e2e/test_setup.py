"""What suite files are written with: a file to start from, schemas for editors, completion of the shell."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from robustprobe.core.spec import load_suite
from robustprobe.core.suites import FOLDER
from robustprobe.results.store import Store
from tests.e2e.program import Answer, child

pytestmark = pytest.mark.e2e
Call = Callable[..., Answer]


def schema(call: Call, kind: str) -> Any:
    answer = call("schema", kind)
    assert (answer.code, answer.err) == (0, "")
    found = json.loads(answer.out)
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def test_init_writes_a_suite_that_runs_and_spares_what_is_there(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "new" / "mine.yaml"
    answer = call("init", file)
    assert (answer.code, answer.err) == (0, "")
    suite = load_suite(file)
    assert (suite.name, suite.encoders, [d.name for d in suite.datasets]) == ("mine", ("bundled:scenes",), ["scenes"])
    plan = call("run", file, "--dry-run", "--limit", "2", "--train-limit", "8", "--attack", "clean", "--out", tmp_path)
    assert plan.code == 0, plan.err
    again = call("init", file, "--encoder", "a=bundled:photos")
    assert again.code == 1
    assert "is there already" in again.err
    assert load_suite(file) == suite
    other = tmp_path / "other.yaml"
    call("init", other, "--encoder", "a=bundled:photos", "--encoder", "timm:x", "--dataset", "imagefolder:a b")
    assert load_suite(other).encoders == ("a=bundled:photos", "timm:x")
    assert load_suite(other).datasets[0].name == "imagefolder:a b"


def test_the_schema_accepts_every_bundled_suite_and_a_new_one(call: Call, tmp_path: Path, suite_file: Path) -> None:
    validator = schema(call, "suite")
    call("init", tmp_path / "suite.yaml")
    paths = [*FOLDER.glob("*.yaml"), tmp_path / "suite.yaml", suite_file]
    for path in paths:
        validator.validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert len(paths) > 4


@pytest.mark.parametrize(
    "change",
    [
        {"encoders": []},
        {"datasets": [{"nam": "scenes"}]},
        {"eps": ["eight"]},
        {"eps": [-1]},
        {"norm": "l7"},
        {"stepss": 3},
        {"attacks": [{"name": "pgd", "steps": 0}]},
        {"head": {"recipe": "best"}},
    ],
)
def test_the_schema_refuses_what_a_run_refuses(call: Call, tmp_path: Path, change: dict[str, Any]) -> None:
    good: dict[str, Any] = {"encoders": ["bundled:scenes"], "datasets": ["scenes"], "eps": ["8/255", 0.1]}
    validator = schema(call, "suite")
    validator.validate(good)
    assert not validator.is_valid({**good, **change})
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump({**good, **change}), encoding="utf-8")
    assert call("run", file, "--dry-run", "--out", tmp_path).code == 1


def test_the_schema_of_records_accepts_what_a_run_left(call: Call, finished: Path) -> None:
    validator = schema(call, "record")
    records = sorted((finished / "cells").glob("*.json"))
    assert len(records) == len(Store(finished).records()) > 0
    for path in records:
        validator.validate(json.loads(path.read_text(encoding="utf-8")))
    assert not validator.is_valid({"fingerprint": "a"})


def test_completion_is_installed_in_the_home_folder(tmp_path: Path) -> None:
    done = child("--install-completion", HOME=str(tmp_path), SHELL="/bin/bash", ZDOTDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("robustprobe" in path.read_text(encoding="utf-8") for path in written)
