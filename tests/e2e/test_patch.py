"""Patches from the command line: records, tables, page, and stored images judged again."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from robustprobe.core.patches import patch_size
from robustprobe.report.tables.results import render
from robustprobe.results.store import Store
from tests.e2e.program import Answer

pytestmark = pytest.mark.e2e
Call = Callable[..., Answer]


def test_a_run_with_patches_tells_them_from_attacks_in_a_ball(my_encoder: Path, tmp_path: Path, call: Call) -> None:
    answer = call(
        *("run", "--encoder", f"{my_encoder}:Tiny", "--dataset", "scenes", "--limit", 5, "--train-limit", 16),
        *("--task", "segmentation", "--task", "depth", "--attack", "clean", "--attack", "apgd"),
        *("--attack", "patch", "--area", "10%", "--sanity-images", 0, "--steps", 2, "--examples", 2, "--out", tmp_path),
    )
    assert answer.code == 0, answer.err
    assert "patches of area 10%" in answer.out
    store = Store(tmp_path)
    found = [r for r in store.records() if r.is_patch]
    assert {(r.task, r.target_task, r.attack.eps) for r in found} == {
        (judge, target, 0.1) for judge in ("segmentation", "depth") for target in ("segmentation", "depth")
    }
    for record in found:
        assert isinstance(record.image_size, tuple)
        boxes = np.array(store.rows(record.fingerprint)["patch"].to_pylist())
        assert {tuple(box[2:]) for box in boxes} == {patch_size(record.attack.eps, record.image_size)}
        assert len({tuple(box) for box in boxes}) == 5
        assert record.largest_perturbation <= record.attack.eps
        assert f"{record.metric} without patch" in record.metrics
        checks = {check.name: check.passed for check in record.checks}
        assert checks["ball"]
        assert ("patch control" in checks) == (record.task == record.target_task)
    tables = render(store.records(), "md")
    ball, _, patches = tables.partition("Patches, depth on scenes")
    assert "patch area" not in ball
    assert "patch area 10%" in patches
    page = (tmp_path / "report.html").read_text()
    assert '<h2 id="patches">' in page
    again = call("verify", tmp_path, "--encoder", f"{my_encoder}:Tiny")
    assert again.code == 0, again.out + again.err
    assert "0 outside" in again.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--attack", "clean", "--area", "5%"), "area 5% is for patches"),
        (("--attack", "patch", "--area", "90%"), "at most 50%"),
        (("--attack", "patch", "--position", "left"), "write random, worst, centre"),
        (("--attack", "patch", "--position", "centre", "--position-samples", 4), "Give one of the two"),
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
