"""Corruptions from the command line: cells, tables and page by severity, beside an attack with an eps."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Generator, device, tensor

import robustprobe as rp
from robustprobe.core.device import Elapsed
from robustprobe.core.spec import Suite
from robustprobe.core.threat import image_generator
from robustprobe.corruptions import corrupted
from robustprobe.evaluation import cost
from robustprobe.evaluation.memory import probe_images
from robustprobe.evaluation.plan import make_plan
from robustprobe.report.tables.corruptions import corruption_summaries, corruption_tables
from robustprobe.report.tables.results import render
from robustprobe.results.store import Store
from tests.e2e.program import Answer, child

pytestmark = pytest.mark.e2e
Call = Callable[..., Answer]
Ran = tuple[Path, subprocess.CompletedProcess[str]]
ATTACKS = ("corruption:contrast", "corruption:jpeg_compression", "pgd")


@pytest.fixture(scope="module")
def corrupted_run(my_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    out = tmp_path_factory.mktemp("corruptions")
    named = [part for attack in ("clean", "noise", *ATTACKS) for part in ("--attack", attack)]
    answer = child(
        *("run", "--encoder", f"{my_encoder}:Tiny", "--dataset", "scenes", "--limit", 8, "--train-limit", 24),
        *("--severity", 1, "--severity", 5, "--steps", 2, "--out", out, *named),
    )
    assert answer.returncode == 0, answer.stderr
    return out, answer


def test_every_task_has_each_corruption_at_each_severity(corrupted_run: Ran) -> None:
    records = Store(corrupted_run[0]).records()
    found = {(r.task, r.attack.objective, r.attack.eps) for r in records if r.is_corruption}
    tasks = {r.task for r in records}
    assert len(tasks) >= 3
    assert found == {(t, n, s) for t in tasks for n in ("contrast", "jpeg_compression") for s in (1.0, 5.0)}
    for record in (r for r in records if r.is_corruption):
        assert (record.attack.norm, record.access, record.target_task) == ("severity", "nothing", "")
        assert not record.is_control
        assert {check.name for check in record.checks} - {"plausible labels"} == {"box"}
        assert "Hendrycks" in record.citation
        drift = record.metrics["embedding drift"]
        column = np.array(Store(corrupted_run[0]).rows(record.fingerprint)["embedding_drift"].to_pylist())
        assert drift.value == pytest.approx(column.mean())
        assert (column >= -1e-6).all()
        assert (column <= 2).all()


def test_drift_grows_with_the_severity(corrupted_run: Ran) -> None:
    records = [r for r in Store(corrupted_run[0]).records() if r.attack.objective == "contrast"]
    mild, hard = ([r.metrics["embedding drift"].value for r in records if r.attack.eps == s] for s in (1, 5))
    assert max(mild) < min(hard)


def test_the_same_command_does_nothing_again(corrupted_run: Ran, my_encoder: Path, call: Call) -> None:
    named = [part for attack in ("clean", *ATTACKS) for part in ("--attack", attack)]
    answer = call(
        *("run", "--encoder", f"{my_encoder}:Tiny", "--dataset", "scenes", "--limit", 8, "--train-limit", 24),
        *("--severity", 5, "--severity", 1, "--steps", 2, "--out", corrupted_run[0], *named),
    )
    assert "nothing left to do" in answer.out


def test_tables_say_severity_and_keep_corruptions_apart(corrupted_run: Ran) -> None:
    out, answer = corrupted_run
    assert "corruptions at severity 1, 5" in answer.stdout
    assert "eps 8/255 (linf)" in answer.stdout
    assert "severity 1 " in answer.stdout
    for text in (answer.stdout, (out / "report.html").read_text()):
        assert "mean of corruptions" in text
        assert "left of clean" in text
        assert "Under 2 corruptions at severity 5" in " ".join(text.split())
        assert "eps 5" not in text
    records = Store(out).records()
    rows = json.loads(render(records, "json"))
    assert {(r["eps"], r["norm"]) for r in rows if r["attack"] == "corruption"} == {(1, "severity"), (5, "severity")}
    assert all("embedding drift" in r["other_metrics"] for r in rows if r["attack"] == "corruption")
    assert "contrast" in render(records, "md")
    assert "corruption:" not in render(records, "md").split("Corruptions, ")[0]
    page = (out / "report.html").read_text()
    assert "No image was changed by more than its eps" in page
    assert "Segmentation on scenes: mIoU, a share from 0 to 1" in page
    assert "severity 5" in page


def test_the_mean_of_a_table_is_that_of_its_cells(corrupted_run: Ran) -> None:
    tables = corruption_tables(Store(corrupted_run[0]).records())
    assert len(tables) >= 3
    for table in tables:
        assert table.names == ["contrast", "jpeg_compression"]
        assert table.headings() == ["severity 1", "severity 5"]
        for column in table.columns:
            values = [record.headline.value for record in column.cells.values()]
            assert column.mean is not None
            assert column.mean.value == pytest.approx(sum(values) / 2)
    assert [s.severity for s in corruption_summaries(tables)] in ([5.0], [])


def test_images_of_a_run_are_those_of_the_library(my_encoder: Path) -> None:
    encoder = rp.load_encoder(f"{my_encoder}:Tiny")
    data = rp.load_dataset("scenes", split="test", limit=2)
    ids = [data[k].id for k in range(2)]
    found = rp.attack(
        encoder, [data[k].image for k in range(2)], attack="corruption:gaussian_noise", severity=2, ids=ids
    )
    for k, name in enumerate(ids):
        generator = image_generator(0, name, "corruption/gaussian_noise", 0)
        assert isinstance(generator, Generator)
        assert (found.adversarial[k] == corrupted(data[k].image, "gaussian_noise", 2, generator)).all()
    assert (found.score > tensor(0.0)).all()


def test_corruptions_are_listed_as_they_are_given(call: Call) -> None:
    names = [one["name"] for one in json.loads(call("list", "corruptions", "--format", "json").out)]
    suite = Suite.model_validate({"encoders": "bundled:scenes", "datasets": "scenes", "attacks": names})
    chosen = {choice.objective for choice in suite.attacks or ()}
    assert chosen == {name.partition(":")[2] for name in names if name.startswith("corruption:")}
    assert {"corruptions", "corruptions:weather", "corruption:fog"} <= set(names)


def test_stored_images_are_judged_again(corrupted_run: Ran, my_encoder: Path, call: Call) -> None:
    answer = call("verify", corrupted_run[0], "--encoder", f"{my_encoder}:Tiny")
    assert answer.code == 0, answer.out + answer.err
    lines = [line for line in answer.out.splitlines() if "corruption:contrast severity 5" in line]
    assert len(lines) >= 3
    assert all("6 images, 0 outside" in line and "0 scores differ" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--attack", "corruption:frost"), "'frost' is not here: it needs photographs"),
        (("--attack", "corruption"), "name a corruption, such as corruption:fog"),
        (("--attack", "corruptions:smoke"), "unknown family of corruptions 'smoke'"),
        (("--attack", "corruption:fog", "--severity", "6"), "severity"),
        (("--attack", "clean", "--severity", "2"), "severity 2 is for corruptions"),
    ],
)
def test_mistakes_are_one_clear_error(
    my_encoder: Path, tmp_path: Path, call: Call, options: tuple[str, ...], said: str
) -> None:
    answer = call(
        *("run", "--encoder", f"{my_encoder}:Tiny", "--dataset", "scenes", "--limit", 4, "--out", tmp_path, *options)
    )
    assert answer.code == 1
    assert said in answer.err
    assert "Traceback" not in answer.err


def test_the_plan_counts_what_corruptions_and_universal_perturbations_take(
    my_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "seconds_of", lambda call, on: (call(), Elapsed(1.0, 1.0))[1])
    suite = Suite.model_validate(
        {
            "encoders": f"{my_encoder}:Tiny",
            "datasets": {"name": "scenes", "limit": 6},
            "tasks": "classification",
            "attacks": ["corruption:fog", {"name": "corruption:snow", "severity": [1, 5]}, "universal"],
            "steps": 3,
            "examples": 0,
            "head": {"train_limit": 24},
        }
    )
    plan = make_plan(suite, Store(tmp_path), Path("nowhere"), device("cpu"))
    (pair,) = plan.pairs
    passed = 1 / probe_images(pair.data.typical_size)
    one, two, universal = plan.costs[pair.key].jobs
    # Each severity is made and judged twice, and the clean image is looked at once.
    assert one == pytest.approx(6 * (1 + 2 * passed + passed))
    assert two == pytest.approx(6 * (2 * (1 + 2 * passed) + passed))
    # Three steps on 32 training images: a forward pass for the clean ones, then one there and back.
    assert universal == pytest.approx(6 * 2 * passed + 3 * 32 * 2 * passed)
