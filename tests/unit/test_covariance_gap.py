"""Scripts on the covariance gap: as a loss, against the diagnostic of a run; and its correlation with scores."""

import pytest
import torch

from robustprobe.core.types import Features
from robustprobe.defences import LayerFeatures
from robustprobe.metrics.feature_gap import feature_gap
from robustprobe.results.records import FeatureGaps, Interval
from tests.scripts import program
from tests.unit.test_report_tables import attack, make_record

pytestmark = pytest.mark.unit


def features(seed: int) -> Features:
    generator = torch.Generator().manual_seed(seed)
    return Features(torch.randn(9, 4, generator=generator), torch.randn(9, 4, 2, 3, generator=generator))


def test_the_gap_of_the_loss_is_that_of_the_diagnostic() -> None:
    module = program("scripts/covariance_gap_loss.py")
    clean, attacked = features(0), features(1)
    expected = feature_gap(clean.cls.numpy(), attacked.cls.numpy()).covariance.value
    assert float(module.covariance_gap(clean.cls, attacked.cls)) == pytest.approx(expected, rel=1e-5)


def test_the_loss_adds_the_weighted_gap_and_none_where_nothing_moved() -> None:
    module = program("scripts/covariance_gap_loss.py")
    clean, attacked = features(0), features(1)
    found = {}
    for weight in (0.0, 1.0, 3.0):
        defence = module.CovarianceGap("both", (-1,), module.CovarianceGapOptions(weight=weight))
        found[weight] = defence.lowered(LayerFeatures([attacked], [attacked], [clean])).loss
        still = defence.lowered(LayerFeatures([clean], [clean], [clean])).loss
        assert torch.equal(still, torch.zeros(9))
    first, second = found[1.0] - found[0.0], found[3.0] - found[0.0]
    assert (first > 0).all()
    torch.testing.assert_close(second, 3 * first)


def gaps(value: float) -> FeatureGaps:
    one, other = (Interval(value=v, ci_low=v, ci_high=v) for v in (value, 1 - value))
    return FeatureGaps(class_covariance=one, class_variance=other, patch_covariance=one, patch_variance=other)


def test_the_correlation_is_that_of_ranks_and_has_the_sign_of_better_scores() -> None:
    records = []
    # Classification: the smaller the gap, the higher the score. Depth: the smaller the gap, the larger the error.
    for name, gap, top1, error in (("a", 0.1, 0.9, 3.0), ("b", 0.2, 0.5, 2.5), ("c", 0.9, 0.4, 0.1)):
        for task, own, score in (("classification", "pgd", top1), ("depth", "depthpgd", error)):
            records.append(make_record(attack("embed"), 0.5, encoder=name, task=task, feature_gaps=gaps(gap)))
            records.append(make_record(attack(own), score, encoder=name, task=task))
            records.append(make_record(attack("clean"), 0.95, encoder=name, task=task))
    found = program("scripts/gap_against_robustness.py").correlations(records)
    assert [name.split()[0] for name in found] == ["classification", "depth"]
    for (count, values), sign in zip(found.values(), (-1, 1), strict=True):
        assert count == 3
        assert values == pytest.approx([sign, -sign, sign, -sign])
