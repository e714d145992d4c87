"""Clean scores of known encoders: what is plausible, and what means that a protocol is off."""

from pathlib import Path
from typing import Any

import pytest

from robustprobe.cli import check
from robustprobe.report.paper.published import paper
from robustprobe.report.references.clean_scores import clean_scores
from robustprobe.results.records import Interval
from robustprobe.results.store import Store
from tests.unit.test_report_tables import attack, make_record

pytestmark = pytest.mark.unit

SMALL = "timm:vit_small_patch14_dinov2.lvd142m"


def published(dataset: str, encoder: str = "dinov2_vits14") -> float:
    found = [c for c in paper().cells() if c.attack == "clean" and (c.dataset, c.encoder) == (dataset, encoder)]
    return next(c.value for c in found if c.weights == "standard")


def clean(value: float, half: float = 0.01, **other: Any) -> Any:
    record = make_record(attack("clean"), value, **{"encoder": SMALL, "dataset": "cifar10", **other})
    interval = Interval(value=value, ci_low=value - half, ci_high=value + half)
    return record.model_copy(update={"metrics": {record.metric: interval}})


def test_a_score_near_the_published_one_is_plausible() -> None:
    known = published("cifar10")
    for value in (known, known - 0.05, known + 0.02):
        (score,) = clean_scores([clean(value)])
        assert score.plausible
        assert score.text.endswith(f"published {known:.3f}: plausible")


def test_a_score_far_from_it_means_that_the_protocol_is_off() -> None:
    known = published("cifar10")
    (score,) = clean_scores([clean(known - 0.2)])
    assert not score.plausible
    assert score.away == pytest.approx(0.19)
    assert "0.190 outside our interval, worse than published" in score.text
    assert clean_scores([clean(known - 0.2, half=0.18)])[0].plausible, "few images give a wide interval"


def test_depth_is_judged_by_a_part_of_its_score() -> None:
    known = published("nyu_depth_v2")
    settings: dict[str, Any] = {"task": "depth", "dataset": "nyu_depth_v2"}
    assert clean_scores([clean(known * 1.1, **settings)])[0].plausible
    (worse,) = clean_scores([clean(known * 2, **settings)])
    assert not worse.plausible
    assert "worse than published" in worse.text
    (better,) = clean_scores([clean(known / 2, **settings)])
    assert "better than published" in better.text


@pytest.mark.parametrize(
    "other", [{"encoder": "my.py:Net"}, {"dataset": "scenes"}, {"split": "val"}, {"task": "segmentation"}]
)
def test_what_nobody_published_is_not_judged(other: dict[str, Any]) -> None:
    assert clean_scores([clean(0.1, **other)]) == []
    assert clean_scores([make_record(attack("pgd"), 0.1, encoder=SMALL, dataset="cifar10")]) == []


def test_the_command_ends_with_1_where_a_score_cannot_be_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = published("cifar10")
    for records, code, said in (
        ([], 0, "No clean score"),
        ([clean(known)], 0, "plausible"),
        ([clean(known), clean(0.1)], 1, "1 of 2 clean scores cannot be right"),
    ):
        monkeypatch.setattr(Store, "records", lambda self, found=records: found)
        try:
            check.results(tmp_path)
            ended = 0
        except SystemExit as stopped:
            ended = int(str(stopped.code))
        assert ended == code
        assert said in "".join(capsys.readouterr())
