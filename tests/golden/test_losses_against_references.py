"""Losses against loops written out and NumPy."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from robustprobe.core.types import Features
from robustprobe.losses import depth, embedding, normals, segmentation

pytestmark = pytest.mark.golden

IGNORE = 255


def pixels(logits: Tensor, target: Tensor) -> segmentation.SegmentationPixels:
    return segmentation.segmentation_pixels(logits, target, IGNORE)


def naive_segpgd(logits: Tensor, target: Tensor, t: int, steps: int) -> float:
    """SegPGD, Gu et al. 2022, eq. 4 and 5, for one image (C, h, w), pixel by pixel."""
    weight = (t - 1) / (2 * steps)
    total, valid = 0.0, 0
    for row in range(target.shape[0]):
        for column in range(target.shape[1]):
            label = int(target[row, column])
            if label == IGNORE:
                continue
            valid += 1
            scores = logits[:, row, column].double().numpy()
            cross_entropy = float(np.log(np.exp(scores).sum()) - scores[label])
            correct = int(scores.argmax()) == label
            total += (1 - weight if correct else weight) * cross_entropy
    return total / max(valid, 1)


@pytest.mark.parametrize(("t", "steps"), [(1, 1), (1, 20), (7, 20), (20, 20)])
def test_segpgd_equals_a_loop_over_pixels(t: int, steps: int) -> None:
    generator = torch.Generator().manual_seed(t)
    logits = torch.randn(3, 4, 5, 6, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 4, (3, 5, 6), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.3] = IGNORE
    found = segmentation.segpgd(pixels(logits, target), (t - 1) / steps)
    expected = [naive_segpgd(image, label, t, steps) for image, label in zip(logits, target, strict=True)]
    # The weights are float32, whatever the logits are.
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-7)


def numpy_scale_invariant_log(depth: Tensor, target: Tensor) -> float:
    valid = target.numpy() > 0
    g = np.log(depth.double().numpy()[valid]) - np.log(target.double().numpy()[valid])
    return float(np.sqrt(g.var() + 0.15 * g.mean() ** 2))


def test_scale_invariant_log_equals_numpy() -> None:
    generator = torch.Generator().manual_seed(0)
    metres = torch.rand(4, 5, 7, generator=generator, dtype=torch.float64) * 9 + 0.1
    target = torch.rand(4, 5, 7, generator=generator, dtype=torch.float64) * 9 + 0.1
    target[torch.rand(target.shape, generator=generator) < 0.3] = 0
    found = depth.scale_invariant_log(metres, target)
    expected = [numpy_scale_invariant_log(d, t) for d, t in zip(metres, target, strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def normal_maps() -> tuple[Tensor, Tensor]:
    """Predictions of any length (4, 3, 5, 7) near and far from unit labels, of which some are missing."""
    generator = torch.Generator().manual_seed(0)
    target = torch.nn.functional.normalize(torch.randn(4, 3, 5, 7, generator=generator, dtype=torch.float64), dim=1)
    spread = torch.tensor([0.05, 0.3, 1, 3], dtype=torch.float64)[:, None, None, None]
    noise = spread * torch.randn(target.shape, generator=generator, dtype=torch.float64)
    lengths = 3 * torch.rand(4, 1, 5, 7, generator=generator, dtype=torch.float64) + 0.01
    missing = torch.rand(4, 1, 5, 7, generator=generator) < 0.3
    return (target + noise) * lengths, torch.where(missing, 0, target)


def numpy_cosines(prediction: Tensor, target: Tensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """Cosine at each pixel with a label, for one image (3, h, w)."""
    p, t = prediction.numpy().reshape(3, -1).T, target.numpy().reshape(3, -1).T
    known = np.abs(t).sum(1) > 0
    p, t = p[known], t[known]
    return np.asarray((p * t).sum(1) / np.linalg.norm(p, axis=1) / np.linalg.norm(t, axis=1))


def test_losses_of_normals_equal_numpy() -> None:
    prediction, target = normal_maps()
    cosines = [numpy_cosines(p, t) for p, t in zip(prediction, target, strict=True)]
    references = {
        normals.cosine: [(1 - c).mean() for c in cosines],
        normals.angular: [np.arccos(c).mean() for c in cosines],
    }
    for loss, expected in references.items():
        np.testing.assert_allclose(loss(prediction, target).numpy(), expected, rtol=1e-7)
        np.testing.assert_allclose(loss(prediction.float(), target.float()).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [normals.cosine, normals.angular])
def test_gradients_of_losses_of_normals_equal_finite_differences(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    prediction, target = normal_maps()
    assert torch.autograd.gradcheck(lambda p: loss(p, target), prediction.requires_grad_(True))


def test_embedding_distance_weighs_cls_like_all_patches_together() -> None:
    clean = Features(torch.zeros(2, 3), torch.zeros(2, 3, 4, 5))
    cls, patches = torch.tensor([[1.0, 2, 2], [0, 0, 0]]), torch.zeros(2, 3, 4, 5)
    patches[1] = 2.0
    found = embedding.embedding_distance(Features(cls, patches), clean)
    assert found.tolist() == [9.0, 3 * 4.0]


def test_cosine_distance_of_known_vectors() -> None:
    maps = torch.zeros(3, 2, 1, 1)
    a = Features(torch.tensor([[1.0, 0], [1, 0], [1, 0]]), maps)
    b = Features(torch.tensor([[2.0, 0], [0, 3], [-1, 0]]), maps)
    torch.testing.assert_close(embedding.class_cosine(a, b), torch.tensor([0.0, 1.0, 2.0]))
