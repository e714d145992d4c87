"""Gates and comparisons of two encoders as their user runs them, and the steps of the GitHub Action in a shell."""

import csv
import io
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.e2e.program import Answer
from tests.unit.test_compare import classified, fill

pytestmark = pytest.mark.e2e
Call = Callable[..., Answer]
ACTION = Path(__file__).parents[2] / ".github" / "actions" / "gate" / "action.yml"
GOOD, BAD = np.array([1] * 60 + [0] * 20), np.array([1] * 20 + [0] * 60)


def test_two_encoders_of_one_folder_with_a_verdict(call: Call, tmp_path: Path) -> None:
    fill(
        tmp_path,
        *(classified(GOOD, encoder="my:a", name=name) for name in ("clean", "pgd")),
        *(classified(BAD, encoder="my:b", name=name) for name in ("clean", "pgd")),
    )
    answer = call("compare", tmp_path, "--encoder", "my:a", "--encoder", "my:b")
    words = " ".join(answer.out.split())
    assert (answer.code, answer.err) == (0, "")
    assert "Of 2 cells, my:b is better than my:a in 0 and worse in 2" in words
    assert "Classification on cifar10 under pgd 8/255: my:b is less robust than my:a (top-1 -0.500 [" in words
    turned = call("compare", tmp_path, "--encoder", "my:b", "--encoder", "my:a", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(turned.out)))
    assert {(r["first_encoder"], r["second_encoder"], r["finding"]) for r in rows} == {("my:b", "my:a", "better")}
    digest = rows[0]["second_encoder_digest"][:8]
    assert call("compare", tmp_path, "--encoder", "my:b", "--encoder", digest, "--format", "csv").out == turned.out


def test_what_cannot_be_compared_is_an_error_with_a_hint(call: Call, tmp_path: Path) -> None:
    one = fill(tmp_path / "one", classified(GOOD, encoder="my:a")).folder
    other = fill(tmp_path / "other", classified(BAD, encoder="my:b")).folder
    third = fill(tmp_path / "third", classified(BAD, encoder="my:a", name="embed")).folder
    for arguments, words in (
        ((one, other), f"robustprobe compare {one} {other} --encoder 'my:a' --encoder 'my:b'"),
        ((one, third), "the first has cifar10 classification pgd 8/255; the second has cifar10 classification embed"),
        ((one,), "--encoder A --encoder B. It holds my:a"),
        ((one, "--encoder", "my:a"), "--encoder A --encoder B"),
        ((one, "--encoder", "my:a", "--encoder", "my:c"), "Did you mean 'my:a'?"),
        ((one, other, "--encoder", "a", "--encoder", "b", "--encoder", "c"), "3 encoders are named"),
        ((one, "paper", "--encoder", "my:a"), "--encoder is for folders"),
        ((one, "paper", "--fail-on-regression"), "gates are for results"),
    ):
        answer = call("compare", *arguments)
        assert answer.code == 1
        assert words in answer.err
    hint = call("compare", one, other, "--encoder", "my:a", "--encoder", "my:b")
    assert hint.code == 0


def test_compare_fails_with_code_3_and_writes_junit(call: Call, tmp_path: Path) -> None:
    before, after = (fill(tmp_path / n, classified(v)).folder for n, v in (("before", GOOD), ("after", BAD)))
    file = tmp_path / "reports" / "new" / "gates.xml"
    answer = call("compare", before, after, "--fail-on-regression", "--junit", file)
    assert answer.code == 3
    assert "1 of 1 gates failed" in answer.err
    assert ET.parse(file).getroot().get("failures") == "1"
    assert call("compare", after, before, "--fail-on-regression").code == 0
    rule = "classification:pgd:8/255>=0.3"
    assert call("compare", before, after, "--fail-under", rule).code == 3
    assert call("compare", after, before, "--fail-under", rule).code == 0
    machine = call("compare", after, before, "--fail-under", rule, "--format", "csv")
    assert "gate passed" in machine.err
    assert len(list(csv.DictReader(io.StringIO(machine.out)))) == 1


def test_run_judges_its_own_numbers(call: Call, finished: Path, suite_file: Path, tmp_path: Path) -> None:
    again = ("run", suite_file, "--out", finished)
    file = tmp_path / "gates.xml"
    answer = call(*again, "--fail-under", "segmentation:segpgd:8/255>=0", "--junit", file)
    assert answer.code == 0, answer.err
    assert ET.parse(file).getroot().get("tests") == "1"
    answer = call(*again, "--fail-under", "segmentation:segpgd:8/255>=0.99")
    assert answer.code == 3
    assert "breaks >= 0.99" in answer.out
    for rule, words in (("segmentation:pgd>=0", "is about no number of this run"), ("x", "is not a rule")):
        answer = call(*again, "--fail-under", rule)
        assert (answer.code, words in answer.err) == (1, True)
    answer = call(*again, "--fail-on-regression", finished)
    assert answer.code == 1
    assert "is the folder of this run too" in answer.err


def steps(inputs: dict[str, str]) -> list[tuple[str, str, dict[str, str]]]:
    """Names, scripts and settings of the action's steps that run a shell, with its inputs filled in."""
    action = yaml.safe_load(ACTION.read_text(encoding="utf-8"))
    given = {name: inputs.get(name, facts.get("default", "")) for name, facts in action["inputs"].items()}

    def filled(text: str) -> str:
        return re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: given[found[1]], text)

    return [
        (step["name"], step["run"], {key: filled(value) for key, value in step.get("env", {}).items()})
        for step in action["runs"]["steps"]
        if "run" in step
    ]


@pytest.mark.parametrize(("limit", "code"), [("0", 0), ("0.99", 3)])
def test_the_steps_of_the_action_work_in_a_shell(
    finished: Path, suite_file: Path, tmp_path: Path, limit: str, code: int
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    program = tools / "robustprobe"
    program.write_text(f"#!{sys.executable}\nfrom robustprobe.cli import main\nmain()\n")
    program.chmod(0o755)
    summary = tmp_path / "summary.md"
    inputs = {
        "suite": str(suite_file),
        "options": "--seed 0 --limit '16'",
        "rules": f"segmentation:segpgd:8/255>={limit}\n\nsegmentation@scenes:clean>=0\n",
        "out": str(finished),
    }
    settings = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "GITHUB_STEP_SUMMARY": str(summary)}
    codes = {
        name: subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script], env={**settings, **env}, cwd=tmp_path, capture_output=True
        ).returncode
        for name, script, env in steps(inputs)
        if name != "Install"
    }
    assert codes == {"Attack, judge, compare": code, "Summary": 0}
    assert ET.parse(finished / "gates.xml").getroot().get("tests") == "2"
    assert "| scenes |" in summary.read_text(encoding="utf-8")
