"""Losses against loops written out and NumPy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from robustprobe.core.types import Features
from robustprobe.losses import depth, embedding, segmentation

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
