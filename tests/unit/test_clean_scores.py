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


IMAGENET: dict[str, Any] = {"dataset": "imagenet"}
LITE = "file:runs/efficientnet-lite0-57934424.pth?arch=tf_efficientnet_lite0"


def with_train_images(record: Any, count: int) -> Any:
    return record.model_copy(update={"head": record.head.model_copy(update={"train_images": count})})


@pytest.mark.parametrize(
    ("encoder", "value"),
    [
        ("timm:vit_small_patch14_dinov2.lvd142m", 0.811),
        ("hub:facebookresearch/dinov2:dinov2_vitb14", 0.845),
        ("hub:facebookresearch/dino:main:dino_vits16", 0.770),
        ("hf:facebook/dino-vitb16@abc", 0.782),
        ("file:efficientnet-lite0-57934424.pth?arch=tf_efficientnet_lite0", 0.751),
        (LITE, 0.751),
        ("timm:tf_efficientnet_lite2.in1k", 0.776),
    ],
)
def test_linear_scores_of_imagenet_are_known(encoder: str, value: float) -> None:
    near, far = (
        with_train_images(clean(value + change, encoder=encoder, **IMAGENET), 1_281_167) for change in (0.02, -0.2)
    )
    (score,) = clean_scores([near])
    assert score.published == value
    assert score.plausible
    assert "linear" in score.source or "classifier" in score.source
    (score,) = clean_scores([far])
    assert not score.plausible


def test_a_head_of_few_images_is_worse_for_that_reason() -> None:
    for count, change, plausible in ((2000, -0.4, True), (2000, 0.2, False), (1_200_000, -0.4, False)):
        record = with_train_images(clean(0.751 + change, encoder=LITE, **IMAGENET), count)
        (score,) = clean_scores([record])
        assert score.plausible is plausible
    assert (
        "fitted on 0.2% of the train images"
        in clean_scores([with_train_images(clean(0.4, encoder=LITE, **IMAGENET), 2000)])[0].text
    )


def test_a_name_that_the_user_gave_hides_no_known_encoder() -> None:
    named: dict[str, Any] = {"encoder": "mine", "encoder_spec": SMALL}
    assert len(clean_scores([clean(0.94, **named)])) == 1
    assert len(clean_scores([clean(0.8, **named, **IMAGENET)])) == 1
    assert clean_scores([clean(0.8, encoder=SMALL, encoder_spec="file:other", **IMAGENET)]) == []


def test_encoders_with_names_alike_are_not_mixed_up() -> None:
    for encoder in ("timm:vit_small_patch14_reg4_dinov2.lvd142m", "hub:facebookresearch/dinov2:dinov2_vits14_reg"):
        assert clean_scores([clean(0.1, encoder=encoder, **IMAGENET)]) == []
