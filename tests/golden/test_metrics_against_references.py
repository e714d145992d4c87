"""Metrics against torchmetrics and NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex

from robustprobe.core.types import LabelSpace
from robustprobe.metrics.dense import mean_iou
from robustprobe.metrics.intervals import Estimate
from robustprobe.tasks import load_task
from robustprobe.tasks.depth import depth_errors
from robustprobe.tasks.normals import angular_errors
from robustprobe.tasks.segmentation import confusion_counts

pytestmark = pytest.mark.golden

IGNORE = 255


def label_maps(seed: int, classes: int, occurring: int, ignored: float) -> tuple[Tensor, Tensor]:
    """Predictions and labels (4, 6, 5) in which some classes are absent, or only predicted, or only labelled."""
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(0, occurring, (4, 6, 5), generator=generator)
    target = torch.randint(classes - occurring, classes, (4, 6, 5), generator=generator)
    target[torch.rand(target.shape, generator=generator) < ignored] = IGNORE
    return prediction, target


def summed(counts: dict[str, Tensor]) -> float:
    return float(mean_iou(**{k: v.double().sum(0).numpy() for k, v in counts.items()}))


@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(2, 7),
    occurring=st.integers(1, 7),
    ignored=st.sampled_from([0.0, 0.3, 0.9]),
)
def test_miou_equals_torchmetrics(seed: int, classes: int, occurring: int, ignored: float) -> None:
    prediction, target = label_maps(seed, classes, min(occurring, classes), ignored)
    prediction[0, 0, 0] = target[0, 0, 0] = 0
    reference = MulticlassJaccardIndex(num_classes=classes, average="macro", ignore_index=IGNORE)
    for image, label in zip(prediction, target, strict=True):
        reference.update(image[None], label[None])
    found = summed(confusion_counts(prediction, target, classes, IGNORE))
    assert found == pytest.approx(float(reference.compute()), abs=1e-6)


def test_miou_by_hand() -> None:
    prediction = torch.tensor([[[0, 0, 1, 1]], [[1, 1, 2, 3]]])
    target = torch.tensor([[[0, 1, 1, IGNORE]], [[1, 1, 1, IGNORE]]])
    counts = confusion_counts(prediction, target, 4, IGNORE)
    assert counts["intersection"].tolist() == [[1, 1, 0, 0], [0, 2, 0, 0]]
    assert counts["predicted"].tolist() == [[2, 1, 0, 0], [0, 2, 1, 0]]
    assert counts["labelled"].tolist() == [[1, 2, 0, 0], [0, 3, 0, 0]]
    # Class 0: 1 of 2; class 1: 3 of 5; class 2 is predicted only: 0 of 1; class 3 occurs nowhere that counts.
    assert summed(counts) == pytest.approx((1 / 2 + 3 / 5 + 0) / 3)


def test_mean_iou_of_many_sets_equals_one_by_one() -> None:
    rng = np.random.default_rng(0)
    intersection = rng.integers(0, 5, (3, 2, 6)).astype(float)
    predicted, labelled = (intersection + rng.integers(0, 4, (3, 2, 6)).astype(float) for _ in range(2))
    together = mean_iou(intersection, predicted, labelled)
    assert together.shape == (3, 2)
    for position in np.ndindex(3, 2):
        assert together[position] == mean_iou(intersection[position], predicted[position], labelled[position])


def test_mean_iou_without_any_class_is_nan() -> None:
    nothing = np.zeros((2, 3))
    assert np.isnan(mean_iou(nothing, nothing, nothing)).all()


def test_depth_errors_equal_numpy() -> None:
    rng = np.random.default_rng(0)
    depth, target = rng.uniform(0.2, 9, (2, 4, 6, 5)).astype(np.float32)
    depth[0] = target[0] * rng.uniform(0.7, 1.4, (6, 5)).astype(np.float32)
    target[rng.random(target.shape) < 0.3] = 0
    target[1, 0, 0] = -1
    found = {k: v.numpy() for k, v in depth_errors(torch.from_numpy(depth), torch.from_numpy(target)).items()}
    for i in range(4):
        p, t = (a[i][target[i] > 0].astype(np.float64) for a in (depth, target))
        assert found["rmse"][i] == pytest.approx(np.sqrt(np.mean((p - t) ** 2)), rel=1e-12)
        assert found["abs_rel"][i] == pytest.approx(np.mean(np.abs(p - t) / t), rel=1e-12)
        assert found["delta1"][i] == pytest.approx(np.mean(np.maximum(p / t, t / p) < 1.25), rel=1e-12)


def estimates_of_depth(valid: list[bool]) -> dict[str, Estimate]:
    """Estimates for images whose depth is 3 m everywhere instead of 2 m, some without a valid pixel."""
    task = load_task("depth", LabelSpace())
    target = torch.tensor(valid)[:, None, None] * torch.full((len(valid), 4, 4), 2.0)
    rows = task.rows(torch.full(target.shape, 3.0), target)
    assert torch.isnan(task.score(rows)).tolist() == [not v for v in valid]
    return task.estimates({k: v.numpy() for k, v in rows.items()})


def test_image_without_valid_depth_does_not_poison_the_mean() -> None:
    found = estimates_of_depth([True, False, True, True, True, True])
    assert found["RMSE"] == pytest.approx((1.0, 1.0, 1.0))
    assert found["abs-rel"] == pytest.approx((0.5, 0.5, 0.5))
    assert found["delta-1"] == (0, 0, 0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("valid", [[True, False], [False, False]])
def test_resamples_without_valid_depth_give_no_warning(valid: list[bool]) -> None:
    assert np.isnan(estimates_of_depth(valid)["RMSE"].value) == (not any(valid))


def test_angular_errors_equal_numpy() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=(3, 3, 6, 5))
    target /= np.linalg.norm(target, axis=1, keepdims=True)
    prediction = (target + rng.normal(size=target.shape) * 0.3) * rng.uniform(0.01, 9, (3, 1, 6, 5))
    target[0, :, :2] = target[2] = 0
    found = angular_errors(torch.from_numpy(prediction), torch.from_numpy(target))
    for i in range(2):
        known = np.abs(target[i]).sum(0) > 0
        p, t = prediction[i][:, known], target[i][:, known]
        angles = np.degrees(np.arccos((p * t).sum(0) / np.linalg.norm(p, axis=0)))
        assert float(found["angle"][i]) == pytest.approx(angles.mean(), rel=1e-5)
        assert float(found["within_11"][i]) == (angles < 11.25).mean()
        assert float(found["within_30"][i]) == (angles < 30).mean()
    assert all(bool(values[2].isnan()) and values.dtype == torch.float64 for values in found.values())


def test_angular_errors_by_hand() -> None:
    target = torch.tensor([0.0, 0, 1]).reshape(1, 3, 1, 1).expand(6, 3, 1, 1)
    tilt = torch.deg2rad(torch.tensor([0.0, 11.2, 29.9, 90, 180], dtype=torch.float64))
    length = torch.tensor([5.0, 1e-6, 1e6, 1, 2], dtype=torch.float64)
    prediction = torch.stack([tilt.sin() * length, torch.zeros(5), tilt.cos() * length], 1)
    nothing = torch.zeros(1, 3)
    found = angular_errors(torch.cat([prediction, nothing])[..., None, None], target)
    assert found["angle"].tolist() == pytest.approx([0, 11.2, 29.9, 90, 180, 90], abs=1e-4)
    assert found["within_11"].tolist() == [1, 1, 0, 0, 0, 0]
    assert found["within_30"].tolist() == [1, 1, 1, 0, 0, 0]
