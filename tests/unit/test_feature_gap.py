"""The gap between covariances of clean and attacked features: its numbers, what is kept of it, where it is shown."""

import numpy as np
import pytest
import torch

import robustprobe as rp
from robustprobe.core.views import Windows
from robustprobe.encoders import Encoder
from robustprobe.evaluation.evaluate import pooled_tokens
from robustprobe.evaluation.partial_results import PartialResult, packed, unpacked
from robustprobe.metrics.feature_gap import feature_gap
from robustprobe.report.page.origin import fact_tables
from robustprobe.report.tables.feature_gaps import feature_gap_sheet
from robustprobe.report.tables.results import render, table_rows
from robustprobe.results.records import FeatureGaps, Interval, Record
from robustprobe.results.store import Store
from tests.conftest import SHORT
from tests.unit.test_partial_results import shard
from tests.unit.test_report_tables import attack, make_record

pytestmark = pytest.mark.unit

DRAWN = np.random.default_rng(0).normal(size=(60, 5))


def test_the_gap_is_the_relative_difference_of_covariances_and_variances() -> None:
    moved = DRAWN @ np.random.default_rng(1).normal(size=(5, 5)) + 3
    before, after = (np.cov(features.T, bias=True) for features in (DRAWN, moved))
    gap = feature_gap(DRAWN, moved)
    assert gap.covariance.value == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before))
    difference = np.abs(np.diag(after) - np.diag(before)).sum() / np.diag(before).sum()
    assert gap.variance.value == pytest.approx(difference)
    for estimate in gap:
        assert estimate.ci_low < estimate.value < estimate.ci_high


@pytest.mark.parametrize("factor", [1.0, 2.0, 0.5])
def test_features_that_grow_alike_have_the_gap_of_their_squared_growth(factor: float) -> None:
    gap = feature_gap(DRAWN, factor * DRAWN + 7)
    for estimate in gap:
        assert estimate.value == pytest.approx(abs(factor**2 - 1), abs=1e-9)
    assert gap.covariance.ci_high == pytest.approx(gap.covariance.value, abs=1e-9)


def test_the_interval_holds_the_gap_of_endless_images_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    known = 0
    for _ in range(200):
        features = generator.normal(size=(100, 3))
        # Each channel has variance 1, and 1.25 with noise of variance 0.25.
        gap = feature_gap(features, features + 0.5 * generator.normal(size=features.shape)).variance
        known += gap.ci_low <= 0.25 <= gap.ci_high
    assert 0.85 < known / 200 <= 1


def test_groups_of_images_are_left_out_whole() -> None:
    groups = np.repeat(np.arange(12), 5)
    repeated = np.repeat(DRAWN[:12], 5, axis=0)
    moved = repeated * np.repeat(np.random.default_rng(2).uniform(0.5, 1.5, size=(12, 1)), 5, axis=0)

    def width(of: "np.ndarray[tuple[int], np.dtype[np.int64]] | None") -> float:
        found = feature_gap(repeated, moved, of).covariance
        return found.ci_high - found.ci_low

    assert width(groups) > 1.3 * width(None)
    assert width(np.zeros(60, dtype=np.int64)) == width(None)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_images_have_a_value_or_none_and_raise_nothing(count: int) -> None:
    gap = feature_gap(DRAWN[:count], 2 * DRAWN[:count])
    assert np.isnan(gap.covariance.value) == (count == 1)


def test_clean_features_that_do_not_vary_have_no_gap() -> None:
    assert np.isnan([estimate.value for estimate in feature_gap(np.ones((4, 2)), DRAWN[:4, :2])]).all()


@pytest.fixture(scope="module")
def records(tiny_encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    out = tmp_path_factory.mktemp("gaps")
    head = SHORT.model_copy(update={"knn": 0})
    rp.evaluate(
        tiny_encoder,
        "scenes",
        ["clean", "noise", "embed", "pgd"],
        tasks=["classification", "depth"],
        eps=["2/255", "8/255"],
        head=head,
        limit=10,
        steps=2,
        batch_size=4,
        sanity_images=0,
        out=out,
    )
    return Store(out).records()


def test_records_of_attacks_on_the_encoder_hold_the_gap_of_their_images(
    records: list[Record], tiny_encoder: Encoder
) -> None:
    assert all((r.feature_gaps is not None) == (r.attack.name == "embed") for r in records)
    found = {(r.attack.eps, r.task): r.feature_gaps for r in records if r.feature_gaps}
    assert len(found) == 4
    small, large = (found[eps, "depth"] for eps in sorted({eps for eps, _ in found}))
    assert found[8 / 255, "classification"] == large
    assert small is not None
    assert large is not None
    assert 0 < small.class_covariance.value < large.class_covariance.value
    assert 0 < small.patch_variance.value < large.patch_variance.value


def test_the_gap_of_a_run_is_that_of_the_features_of_its_images(tiny_encoder: Encoder) -> None:
    data = rp.load_dataset("scenes", split="test", limit=6, size=(16, 16))
    images = torch.stack([data[k].image for k in range(6)])
    result = rp.attack(tiny_encoder, images, attack="embed", eps="8/255", steps=2, ids=data.kept_ids)
    with torch.no_grad():
        clean, moved = (tiny_encoder(shown).cls.numpy() for shown in (images, result.adversarial))
    expected = feature_gap(clean, moved).covariance.value
    head = SHORT.model_copy(update={"knn": 0})
    found = rp.evaluate(
        tiny_encoder,
        "scenes",
        "embed",
        tasks="depth",
        eps="8/255",
        steps=2,
        limit=6,
        size=16,
        head=head,
        sanity_images=0,
    )
    assert found["class_covariance_gap"].tolist() == [pytest.approx(expected, rel=1e-3)]


def test_parts_of_an_image_count_as_one(tiny_encoder: Encoder) -> None:
    images = torch.rand(3, 3, 24, 32)
    view = Windows(window=16, stride=8)
    cls, patches = pooled_tokens(view.features(tiny_encoder, images), 3)
    assert cls.shape == patches.shape == (3, 16)
    alone = pooled_tokens(view.features(tiny_encoder, images[1:2]), 1)
    torch.testing.assert_close(cls[1:2], alone[0], rtol=1e-4, atol=1e-5)


def gaps(value: float) -> FeatureGaps:
    one = Interval(value=value, ci_low=value - 0.1, ci_high=value + 0.1)
    return FeatureGaps(class_covariance=one, class_variance=one, patch_covariance=one, patch_variance=one)


def test_tables_and_page_show_a_row_for_each_encoder_and_attack_on_it() -> None:
    both = [make_record(attack("embed"), 0.5, task=t, feature_gaps=gaps(0.25)) for t in ("classification", "depth")]
    other = make_record(attack("embed"), 0.5, encoder="other", feature_gaps=gaps(1.5))
    plain = make_record(attack("pgd"), 0.1)
    shown = feature_gap_sheet([*both, other, plain])
    assert shown is not None
    assert [row.names[1:] for row in shown.rows] == [["bundled:scenes", "embed 8/255"], ["other", "embed 8/255"]]
    assert shown.rows[1].cells == ["1.500 [1.400, 1.600]"] * 4
    for format in ("rich", "md", "latex"):
        assert "1.500 [1.400, 1.600]" in render([*both, other, plain], format)
    (table,) = [t for t in fact_tables([*both, other]) if t.title == shown.title]
    assert table.rows[1][-1] == "1.500 [1.400, 1.600]"
    assert {row["patch_variance_gap"] for row in table_rows([*both, plain])} == {0.25, None}
    assert feature_gap_sheet([plain]) is None
    assert "Features under attack" not in render([plain], "md")


def test_what_is_kept_of_features_survives_an_interruption() -> None:
    ((piece,),) = shard("a", "b").batches
    piece = piece._replace(tokens=(torch.rand(2, 2, 3), torch.rand(2, 2, 4)))
    again = unpacked(packed(PartialResult(("a", "b"), [(piece,)]))).batches[0][0]
    assert all(map(torch.equal, again.tokens, piece.tokens))


def test_of_two_images_nothing_is_known_of_the_upper_end() -> None:
    clean = np.array([[0.0, 1.0, 3.0], [2.0, 0.0, 1.0]])
    for estimate in feature_gap(clean, 2 * clean):
        assert (estimate.ci_low, estimate.ci_high) == (0.0, np.inf)
