"""A run from the command line: what it shows, what it leaves, and that nothing is done twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import robustprobe as rp
from robustprobe.core.fingerprints import fingerprint
from robustprobe.results.example_images import RANDOM
from robustprobe.results.store import Store
from tests.e2e.program import Answer, child

pytestmark = pytest.mark.e2e
TASKS = ("classification", "segmentation", "depth")
Call = Callable[..., Answer]

SHARED = Path(__file__).parents[3] / "shared" / "data"


def contents(out: Path) -> dict[str, Any]:
    """Everything a run leaves except when, where and how long."""
    records = {r.fingerprint: r.model_dump(exclude={"provenance"}) for r in Store(out).records()}
    rows = {name: Store(out).rows(name).to_pydict() for name in records}
    pictures = {p.relative_to(out).as_posix(): p.read_bytes() for p in (out / "examples").rglob("*") if p.is_file()}
    return {"records": records, "rows": rows, "pictures": pictures}


def test_every_cell_of_the_product_is_there(finished: Path) -> None:
    cells = {(r.attack.name, r.target_task, r.task) for r in Store(finished).records()}
    makers = [("clean", ""), ("noise", ""), ("embed", ""), ("pgd", "classification")]
    makers += [("segpgd", "segmentation"), ("depthpgd", "depth"), ("apgd", "depth")]
    assert cells == {(attack, target_task, task) for attack, target_task in makers for task in TASKS}


def test_rows_make_the_number_and_name_the_images(finished: Path) -> None:
    for record in Store(finished).records():
        rows = Store(finished).rows(record.fingerprint)
        assert rows.num_rows == record.n == 16
        assert len(set(rows["id"].to_pylist())) == 16
        assert record.headline.ci_low <= record.headline.value <= record.headline.ci_high
        assert max(rows["perturbation"].to_pylist()) == pytest.approx(record.largest_perturbation)
        assert record.largest_perturbation <= record.attack.eps + 1e-6
        if record.task == "classification":
            assert sum(rows["correct"].to_pylist()) / 16 == pytest.approx(record.headline.value)


def test_records_say_where_they_come_from(finished: Path) -> None:
    for record in Store(finished).records():
        origin = record.provenance
        assert "small.yaml" in origin.command
        assert {"torch", "robustprobe", "python"} <= origin.versions.keys()
        assert origin.hardware
        assert origin.seconds > 0
        assert len(record.encoder_digest) == 64


def test_again_does_nothing_and_says_so(call: Call, finished: Path, suite_file: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (finished / "cells").iterdir()}
    answer = call("run", suite_file, "--out", finished)
    assert answer.code == 0
    assert "nothing left to do" in answer.out
    assert {p: p.stat().st_mtime_ns for p in (finished / "cells").iterdir()} == before


def test_only_what_is_missing_is_done(call: Call, finished: Path, suite_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call("run", suite_file, "--attack", "clean", "--out", out).code == 0
    answer = call("run", suite_file, "--out", out)
    assert "21 cells, 3 of them done already" in answer.out
    assert "clean," not in answer.out.partition("plan:")[2].partition("Classification")[0]
    assert contents(out)["records"] == contents(finished)["records"]


def test_a_damaged_record_or_rows_are_made_again(call: Call, finished: Path, suite_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call("run", suite_file, "--out", out)
    records = sorted((out / "cells").iterdir())
    records[0].write_text("{")
    rows = sorted((out / "rows").iterdir())[-1]
    rows.write_bytes(rows.read_bytes()[:-20])
    assert call("run", suite_file, "--out", out).code == 0
    assert contents(out) == contents(finished)


def test_batch_size_changes_numbers_by_rounding_at_most(
    call: Call, finished: Path, suite_file: Path, tmp_path: Path
) -> None:
    # The last batch of 5, 5, 5, 1 may run other float32 kernels; the contract tests hold float64 to equality.
    assert call("run", suite_file, "--batch-size", 5, "--out", tmp_path).code == 0
    expected = contents(finished)["rows"]
    for name, rows in contents(tmp_path)["rows"].items():
        assert rows["id"] == expected[name]["id"]
        for column in rows.keys() - {"id"}:
            np.testing.assert_allclose(rows[column], expected[name][column], rtol=1e-3, atol=1e-6)


def test_bf16_attacks_are_judged_in_fp32(call: Call, finished: Path, suite_file: Path, tmp_path: Path) -> None:
    assert call("run", suite_file, "--precision", "bf16", "--out", tmp_path).code == 0
    exact = {(r.attack.name, r.task): r for r in Store(finished).records()}
    for record in Store(tmp_path).records():
        assert record.precision == "bf16"
        assert record.largest_perturbation <= record.attack.eps + 1e-6
        if record.attack.name in ("clean", "noise"):
            # Another batch, and so another order of sums; bf16 would be off by a thousandth.
            there = exact[record.attack.name, record.task].metrics
            assert {name: m.value for name, m in record.metrics.items()} == pytest.approx(
                {name: m.value for name, m in there.items()}, rel=1e-6
            )


def test_doctor_says_what_is_found_and_what_is_missing(call: Call, tmp_path: Path) -> None:
    answer = call("doctor", "--data-root", tmp_path)
    assert answer.code == 0
    text = " ".join(answer.out.split())
    assert "found, 1000 test images" in text
    assert "missing: no" in text
    assert "--data-root" in text


def test_killed_at_random_moments_and_started_again(finished: Path, suite_file: Path, tmp_path: Path) -> None:
    out, dice = tmp_path / "out", random.Random(0)
    environment = {**os.environ, "ROBUSTPROBE_CACHE": str(tmp_path / "cache")}
    program = "from robustprobe.cli import main; main()"
    command = [sys.executable, "-c", program, "run", str(suite_file), "--out", str(out)]
    killed = []
    for cells in (0, dice.randint(1, 3), dice.randint(5, 8), dice.randint(10, 14)):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and (not out.exists() or len(list(out.glob("cells/*.json"))) < cells):
            time.sleep(0.001)
        time.sleep(dice.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        killed.append(process.wait() == -signal.SIGKILL)
    assert sum(killed) >= 2
    done = child("run", suite_file, "--out", out, ROBUSTPROBE_CACHE=environment["ROBUSTPROBE_CACHE"])
    assert done.returncode == 0, done.stderr
    assert contents(out)["records"] == contents(finished)["records"]
    assert contents(out)["rows"] == contents(finished)["rows"]


def test_interrupt_ends_with_130_and_what_to_do(suite_file: Path, tmp_path: Path) -> None:
    program = (
        "import robustprobe.evaluation.run as r, robustprobe.cli as c\n"
        "inner = r.store_cell\n"
        "def stop(*a):\n    inner(*a)\n    raise KeyboardInterrupt\n"
        "r.store_cell = stop\n"
        "c.main()"
    )
    command = [sys.executable, "-c", program, "run", str(suite_file), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "same command continues" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(Store(tmp_path).records()) == 1


@pytest.mark.parametrize("broken", ["probing.head_plan.fit_probes", "evaluation.run.store_cell"])
def test_what_fails_is_named_and_ends_with_2(
    call: Call, suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(f"robustprobe.{broken}", fail)
    answer = call("run", suite_file, "--out", tmp_path)
    assert answer.code == 2
    assert "tiny on scenes" in answer.err
    assert "out of memory" in answer.err
    # No record was written, and folders that stayed empty are removed.
    assert not (tmp_path / "cells").exists()


def test_table_json_has_the_promised_keys(call: Call, finished: Path) -> None:
    rows = json.loads(call("table", finished, "--format", "json").out)
    wanted = [
        "encoder",
        "dataset",
        "task",
        "attack",
        "eps",
        "metric",
        "value",
        "ci_low",
        "ci_high",
        "n",
        "higher_is_better",
    ]
    assert len(rows) == 13
    for row in rows:
        assert set(wanted) <= row.keys()
        assert row["n"] == 16
        assert row["encoder"] == "tiny"
        assert row["higher_is_better"] is (row["task"] != "depth")
        assert row["eps"] == (0 if row["attack"] == "clean" else pytest.approx(8 / 255))
    assert len(json.loads(call("table", finished, "--format", "json", "--transfer").out)) == 21


@pytest.mark.parametrize("kind", ["rich", "md", "csv", "latex"])
def test_tables_show_every_attack(call: Call, finished: Path, kind: str) -> None:
    answer = call("table", finished, "--format", kind)
    assert answer.code == 0
    assert all(name in answer.out for name in ("clean", "noise", "embed", "pgd", "segpgd", "depthpgd", "tiny"))


def test_the_page_is_one_file_with_the_images(call: Call, finished: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert call("report", finished, "-o", page).code == 0
    text = page.read_text()
    assert text.count("data:image/png;base64,") > 20
    assert 'src="http' not in text


def test_the_bundled_demo_suite(call: Call, tmp_path: Path) -> None:
    answer = call(
        "run", "demo-full", "--limit", 4, "--train-limit", 24, "--steps", 1, "--sanity-images", 1, "--out", tmp_path
    )
    assert answer.code == 0, answer.err
    encoders = {r.encoder for r in Store(tmp_path).records()}
    assert encoders == {"bundled:scenes", "bundled:scenes-deacl", "bundled:scenes-anyhead"}
    assert (tmp_path / "report.html").exists()
    for path in (tmp_path / "rows").iterdir():
        assert pq.read_metadata(path).num_rows == 4


def test_choices_can_be_made_on_val_and_results_say_so(call: Call, suite_file: Path, tmp_path: Path) -> None:
    command = ["run", suite_file, "--attack", "clean", "--sanity-images", 0, "--limit", 4, "--out", tmp_path]
    for split in ("test", "val"):
        answer = call(*command, "--split", split)
        assert answer.code == 0, answer.err
    records = Store(tmp_path).records()
    for split in ("test", "val"):
        ids = rp.load_dataset("scenes", split=split, limit=4).kept_ids
        assert {r.image_ids_digest for r in records if r.split == split} == {fingerprint(list(ids))}
    assert {r.images_of for r in records} == {"scenes", "scenes val"}
    assert "scenes val" in call("table", tmp_path).out
    call("report", tmp_path, "-o", tmp_path / "page.html")
    assert "scenes val" in (tmp_path / "page.html").read_text()
    refused = call(*command, "--split", "train")
    assert (refused.code, "test" in refused.err) == (1, True)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared photographs are not here")
@pytest.mark.parametrize("name", ["cifar10", "camvid", "nyu_depth_v2"])
def test_real_photographs(call: Call, my_encoder: Path, tmp_path: Path, name: str) -> None:
    options = ["--encoder", f"{my_encoder}:Tiny", "--dataset", name, "--data-root", SHARED, "--out", tmp_path]
    answer = call("run", *options, "--limit", 6, "--train-limit", 20, "--steps", 2)
    assert answer.code == 0, answer.err
    assert {r.n for r in Store(tmp_path).records()} == {6}


def test_extreme_examples_come_later_and_their_failure_costs_no_cell(
    call: Call, suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["run", suite_file, "--attack", "clean", "--attack", "depthpgd", "--sanity-images", 0, "--out", tmp_path]
    assert call(*command, "--extreme-examples", 0).code == 0
    assert {len(group.examples) for group in Store(tmp_path).groups()} == {2}
    records = Store(tmp_path).records()

    def broken(*rest: Any) -> Any:
        raise RuntimeError("the image is gone")

    with monkeypatch.context() as patch:
        patch.setattr("robustprobe.evaluation.executors.work.WorkerState.judge", broken)
        answer = call(*command)
    assert answer.code == 2
    assert "examples of depthpgd against depth: the image is gone" in answer.err
    assert "Traceback" not in answer.err
    answer = call(*command)
    assert answer.code == 0
    assert "attacked again, for examples" in answer.out
    assert "1 images" not in answer.out
    assert Store(tmp_path).records() == records
    assert all(
        {choice.kind for example in group.examples for choice in example.chosen} >= {"random", "most damaged"}
        for group in Store(tmp_path).groups()
    )
    page = (tmp_path / "report.html").read_text()
    assert "most damaged in depth by depthpgd 8/255 on" in page
    assert "extreme examples are attacked" not in call(*command).out


def test_example_images_are_as_many_as_asked_for_whatever_the_run_reads(finished: Path) -> None:
    """Two of sixteen at random, then at most three extreme ones per task: each an image, and a map per task."""
    groups = Store(finished).groups()
    assert groups
    for group in groups:
        assert [RANDOM in example.chosen for example in group.examples].count(True) == 2
        assert RANDOM in group.examples[1].chosen
        assert {choice.task for e in group.examples for choice in e.chosen} == {"", *TASKS}
        assert len(group.examples) <= 2 + 3 * len(TASKS)
        pictures = list((finished / "examples" / group.group).glob("*.png"))
        assert len(pictures) <= len(group.examples) * 5
        assert {p.name for p in pictures} == set(group.digests)
