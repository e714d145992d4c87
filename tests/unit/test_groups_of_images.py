"""Images that are not independent: intervals draw their groups; and what is said beside mIoU of few images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import robustprobe as rp
from robustprobe.core.registry import datasets
from robustprobe.core.spec import Statistic
from robustprobe.core.types import LabelSpace
from robustprobe.datasets.scenes import Scenes
from robustprobe.metrics.intervals import bootstrap
from robustprobe.metrics.statistics import GROUP, estimate
from robustprobe.report.page.render import render_page
from robustprobe.report.tables.remarks import remarks
from robustprobe.report.tables.results import render
from robustprobe.results.records import Record
from robustprobe.results.store import Store
from robustprobe.tasks import load_task

pytestmark = pytest.mark.unit

MEAN = Statistic(kind="mean", columns=("rmse",))
SHARE = Statistic(kind="proportion", columns=("correct",))
CAMVID = Path(__file__).parents[3] / "shared" / "data"


def test_copies_of_an_image_widen_no_interval_that_draws_groups() -> None:
    values = np.random.default_rng(0).lognormal(0, 0.5, 30)
    once = estimate(MEAN, {"rmse": values})
    copies = {"rmse": np.repeat(values, 5), GROUP: np.repeat(np.arange(30), 5)}
    grouped, alone = estimate(MEAN, copies), estimate(MEAN, {"rmse": copies["rmse"]})
    assert grouped == pytest.approx(once)
    assert alone.ci_high - alone.ci_low < 0.6 * (once.ci_high - once.ci_low)


def test_groups_of_one_image_are_images_and_one_group_is_no_sample() -> None:
    values = np.random.default_rng(1).random((40, 3))
    columns = {"a": values}
    whole = bootstrap(columns, lambda sums: sums["a"].sum(-1))
    assert bootstrap(columns, lambda sums: sums["a"].sum(-1), groups=np.arange(40)) == whole
    assert bootstrap(columns, lambda sums: sums["a"].sum(-1), groups=np.zeros(40, dtype=np.int64)) == whole


def test_a_share_over_groups_is_wider_than_wilson() -> None:
    correct = np.repeat(np.random.default_rng(2).random(20) < 0.5, 10)
    alone = estimate(SHARE, {"correct": correct})
    grouped = estimate(SHARE, {"correct": correct, GROUP: np.repeat(np.arange(20), 10)})
    assert grouped.value == pytest.approx(alone.value)
    assert grouped.ci_high - grouped.ci_low > 2 * (alone.ci_high - alone.ci_low)


def measured(encoder: rp.Encoder, out: Path, dataset: str, **options: Any) -> dict[str, Record]:
    head = {"train_limit": 24, "epochs": 1, "batch_size": 8, "learning_rates": (3e-3,)}
    options = {"limit": 12, "size": (16, 16), "sanity_images": 0, "head": head, **options}
    rp.evaluate(encoder, dataset, ["clean"], out=out, **options)
    return {record.task: record for record in Store(out).records()}


def test_a_run_records_groups_and_its_tables_say_them(
    tiny_encoder: rp.Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = measured(tiny_encoder, tmp_path / "plain", "scenes")
    # Four scenes at a time are taken to be frames of a video.
    monkeypatch.setattr(Scenes, "group", lambda self, index: f"video {index // 4}")
    found = measured(tiny_encoder, tmp_path / "videos", "scenes")
    for task, record in found.items():
        assert record.groups > 1
        assert plain[task].groups == 0
        assert record.headline.value == pytest.approx(plain[task].headline.value)
        assert record.headline != plain[task].headline
    assert Store(tmp_path / "videos").rows(record.fingerprint).column(GROUP).to_pylist()
    for text in (render(found.values(), "md"), render(found.values(), "rich"), render_page(list(found.values()))):
        assert "too few for a reliable interval" in " ".join(text.split())
    assert "groups of images" not in render(plain.values(), "md")


def test_classes_without_a_label_that_are_predicted_are_counted() -> None:
    task = load_task("segmentation", LabelSpace(classes=("a", "b", "c"), ignore_index=255))
    output = torch.zeros(1, 3, 2, 2)
    output[0, 2, 0, 0] = 5
    output[0, 0] += 1
    rows = {n: v.numpy() for n, v in task.rows(output, torch.zeros(1, 2, 2, dtype=torch.long)).items()}
    assert task.absent_classes(rows) == 1


def test_it_is_said_beside_miou_what_its_interval_is_one_of(tiny_encoder: rp.Encoder, tmp_path: Path) -> None:
    record = measured(tiny_encoder, tmp_path, "scenes", tasks="segmentation")["segmentation"]
    for text in (render([record], "md"), render([record], "rich"), render([record], "latex"), render_page([record])):
        assert "value and interval are those of so few images" in " ".join(text.split())
    many = record.model_copy(update={"n": 2000, "absent_classes": 0})
    assert remarks([many]) == []
    (absent,) = remarks([many.model_copy(update={"absent_classes": 7})])
    assert "7 classes predicted without a label here count as 0" in absent


@pytest.mark.skipif(not (CAMVID / "camvid").is_dir(), reason="needs CamVid")
def test_frames_of_camvid_are_grouped_by_their_video() -> None:
    data = rp.load_dataset("camvid", root=CAMVID, split="train")
    assert {data.group(index) for index in data.indices} == {"0001TP", "0006R0", "0016E5"}
    assert len(set(data.groups() or ())) == 3
    assert rp.load_dataset("scenes", limit=3).groups() is None
    assert "camvid" in datasets.names()
