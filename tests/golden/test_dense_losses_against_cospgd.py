"""Losses of logits against the `cospgd` package, SciPy, loops, and the losses inside torchattacks and AutoAttack."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchattacks
from cospgd import functions as cospgd_package
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from scipy.spatial.distance import jensenshannon
from torch import Tensor, nn

from robustprobe.losses import classification, segmentation

pytestmark = pytest.mark.golden

IGNORE = 255
CLASSES = 5
STEPS = 10


def maps(seed: int = 0, ignored: float = 0.0) -> tuple[Tensor, Tensor]:
    """Logits (4, 5, 6, 7) of which about half are correct, and labels (4, 6, 7)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(4, CLASSES, 6, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (4, 6, 7), generator=generator)
    labels = torch.where(torch.rand(labels.shape, generator=generator) < 0.4, logits.argmax(1), labels)
    return logits, torch.where(torch.rand(labels.shape, generator=generator) < ignored, IGNORE, labels)


def pixels(logits: Tensor, labels: Tensor) -> segmentation.SegmentationPixels:
    return segmentation.segmentation_pixels(logits, labels, IGNORE)


def only_valid(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels of one image (C, h, w) that count, as an image (1, C, 1, n) of its own."""
    valid = labels != IGNORE
    return logits[:, valid][None, :, None], labels[valid][None, None]


def package_segpgd(logits: Tensor, labels: Tensor, step: int) -> Tensor:
    """The package adds up the batch, divides by pixels, and knows no ignored ones: one image at a time."""
    loss = F.cross_entropy(logits, labels, reduction="none")
    found: Tensor = cospgd_package.segpgd_scale(logits, labels, loss, step, STEPS)
    return found


def package_cospgd(logits: Tensor, labels: Tensor, step: int) -> Tensor:
    loss = F.cross_entropy(logits, labels, reduction="none")
    found: Tensor = cospgd_package.cospgd_scale(logits, labels, loss, num_classes=CLASSES)
    return found.mean()


def our_segpgd(logits: Tensor, labels: Tensor, step: int) -> Tensor:
    return segmentation.segpgd(pixels(logits, labels), step / STEPS)


def our_cospgd(logits: Tensor, labels: Tensor, step: int) -> Tensor:
    return segmentation.cospgd(pixels(logits, labels), labels)


Loss = Callable[[Tensor, Tensor, int], Tensor]
PAIRS = pytest.mark.parametrize(("ours", "theirs"), [(our_segpgd, package_segpgd), (our_cospgd, package_cospgd)])


@PAIRS
@pytest.mark.parametrize("step", [0, 3, 9])
@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_loss_and_gradient_of_each_image_are_those_of_the_package(
    ours: Loss, theirs: Loss, step: int, ignored: float
) -> None:
    logits, labels = maps(step, ignored)
    logits.requires_grad_(True)
    expected = torch.stack([theirs(*only_valid(x, y), step) for x, y in zip(logits, labels, strict=True)])
    found = ours(logits, labels, step)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), logits)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-12)
    assert gradient.abs().sum() > 0


def test_package_adds_up_what_we_keep_apart() -> None:
    logits, labels = maps()
    torch.testing.assert_close(our_segpgd(logits, labels, 4).sum(), package_segpgd(logits, labels, 4))


def each_valid_pixel(logits: Tensor, labels: Tensor, value: Callable[[Any, int], float]) -> list[float]:
    """Mean of a function of one pixel's logits and label, written out as loops."""
    means = []
    for image, label in zip(logits.detach(), labels, strict=True):
        values = [
            value(image[:, i, j].numpy(), int(label[i, j]))
            for i in range(label.shape[0])
            for j in range(label.shape[1])
            if label[i, j] != IGNORE
        ]
        means.append(sum(values) / len(values))
    return means


def softmax(scores: Any) -> Any:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def test_js_equals_scipy() -> None:
    logits, labels = maps(1, ignored=0.3)
    expected = each_valid_pixel(
        logits, labels, lambda s, label: float(jensenshannon(softmax(s), np.eye(CLASSES)[label]) ** 2)
    )
    found = segmentation.jensen_shannon(pixels(logits, labels))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_js_has_the_gradient_of_its_definition() -> None:
    logits, labels = maps(2)
    logits.requires_grad_(True)
    p, q = logits.softmax(1), F.one_hot(labels, CLASSES).movedim(-1, 1)
    entropy = torch.special.entr
    direct = (entropy((p + q) / 2) - entropy(p) / 2).sum(1).mean((1, 2))
    (expected,) = torch.autograd.grad(direct.sum(), logits)
    (found,) = torch.autograd.grad(segmentation.jensen_shannon(pixels(logits, labels)).sum(), logits)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_js_is_at_most_log_2() -> None:
    logits, _ = maps(3)
    found = segmentation.jensen_shannon(pixels(100 * logits, logits.argmin(1)))
    assert (found <= np.log(2) + 1e-12).all()
    assert (found > 0.99 * np.log(2)).all()


def test_mask_ce_equals_a_loop_over_correct_pixels() -> None:
    logits, labels = maps(4, ignored=0.3)
    expected = each_valid_pixel(
        logits, labels, lambda s, label: float(-np.log(softmax(s)[label])) if s.argmax() == label else 0.0
    )
    np.testing.assert_allclose(segmentation.masked_cross_entropy(pixels(logits, labels)).numpy(), expected, rtol=1e-9)


def test_mask_logit_equals_a_loop_over_correct_pixels() -> None:
    logits, labels = maps(5, ignored=0.3)
    expected = each_valid_pixel(
        logits, labels, lambda s, label: float(-s[label] / np.sqrt((s**2).sum())) if s.argmax() == label else 0.0
    )
    found = segmentation.masked_logit(pixels(logits, labels), logits, labels)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_wrong_share_equals_a_loop() -> None:
    logits, labels = maps(6, ignored=0.3)
    expected = each_valid_pixel(logits, labels, lambda s, label: float(s.argmax() != label))
    np.testing.assert_allclose(segmentation.wrong_share(pixels(logits, labels)).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("loss", [segmentation.masked_cross_entropy, segmentation.segmentation_cross_entropy])
def test_wrong_pixels_move_mask_ce_not_at_all(
    loss: Callable[[segmentation.SegmentationPixels], Tensor],
) -> None:
    logits, labels = maps(7)
    logits.requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(pixels(logits, labels)).sum(), logits)
    wrong = logits.argmax(1) != labels
    moved = bool((gradient.abs().sum(1)[wrong] > 0).any())
    assert moved is (loss is segmentation.segmentation_cross_entropy)


def scores(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (64, 6), labels, of which half are the likeliest class, and goals that are other classes."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(64, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 6, (64,), generator=generator)
    labels[::2] = logits.argmax(1)[::2]
    return logits, labels, (labels + torch.randint(1, 6, (64,), generator=generator)) % 6


def model() -> nn.Module:
    return nn.Linear(1, 1)


def test_dlr_is_that_of_torchattacks_and_autoattack() -> None:
    logits, labels, _ = scores()
    found = classification.dlr(logits, labels)
    torch.testing.assert_close(found, torchattacks.APGD(model()).dlr_loss(logits, labels))
    torch.testing.assert_close(found, APGDAttack(model(), eps=0.1, device="cpu").dlr_loss(logits, labels))


def test_targeted_dlr_is_that_of_torchattacks_and_autoattack() -> None:
    logits, labels, goals = scores(1)
    found = classification.targeted_dlr(logits, labels, goals)
    torch.testing.assert_close(found, torchattacks.APGDT(model()).dlr_loss_targeted(logits, labels, goals))
    reference = APGDAttack_targeted(model(), eps=0.1, device="cpu")
    reference.y_target = goals
    torch.testing.assert_close(found, reference.dlr_loss_targeted(logits, labels))


def test_targeted_cross_entropy_is_that_of_autoattack() -> None:
    logits, labels, goals = scores(2)
    reference = APGDAttack_targeted(model(), eps=0.1, device="cpu")
    reference.y_target = goals
    found = classification.targeted_cross_entropy(logits, goals)
    torch.testing.assert_close(found, reference.ce_loss_targeted(logits, labels))


def test_margin_is_that_of_torchattacks_square_turned_round() -> None:
    logits, labels, _ = scores(3)
    attack = torchattacks.Square(nn.Identity())
    theirs, _ = attack.margin_and_loss(logits.clone(), labels)
    torch.testing.assert_close(classification.margin(logits, labels), -theirs)
