"""Losses are finite, one number an image, and sensitive to what they must be sensitive to."""

import pytest
import torch
from torch import Tensor

from robustprobe.losses import classification, segmentation
from robustprobe.losses import depth as depth_losses
from robustprobe.losses._masked import masked_mean

pytestmark = pytest.mark.unit

IGNORE = 255


def labels_of(logits: Tensor, which: str) -> Tensor:
    """Labels for which all, no or no labelled pixel is correct."""
    if which == "ignored":
        return torch.full_like(logits[:, 0], IGNORE).long()
    best, worst = logits.argmax(1), logits.argmin(1)
    return best if which == "correct" else worst


@pytest.mark.parametrize("step", [0, 3, 4])
@pytest.mark.parametrize("which", ["correct", "wrong", "ignored"])
def test_segmentation_losses_and_gradients_are_finite(which: str, step: int) -> None:
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    pixels = segmentation.segmentation_pixels(logits, labels_of(logits, which), IGNORE)
    for loss in (segmentation.segpgd(pixels, step / 4), segmentation.segmentation_cross_entropy(pixels)):
        assert loss.shape == (2,)
        assert torch.isfinite(loss).all()
        (gradient,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
        assert torch.isfinite(gradient).all()


def test_segpgd_sees_correct_pixels_only_at_the_first_step_and_both_alike_at_the_end() -> None:
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    correct, wrong = (
        segmentation.segmentation_pixels(logits, labels_of(logits, w), IGNORE) for w in ("correct", "wrong")
    )
    assert (segmentation.segpgd(wrong, 0) == 0).all()
    assert torch.equal(segmentation.segpgd(correct, 0), segmentation.segmentation_cross_entropy(correct))
    for pixels in (correct, wrong):
        torch.testing.assert_close(segmentation.segpgd(pixels, 1), segmentation.segmentation_cross_entropy(pixels) / 2)


def test_ignored_pixels_have_no_value_and_no_gradient() -> None:
    logits = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    target = torch.tensor([[[IGNORE, 0], [1, 2]]])
    pixels = segmentation.segmentation_pixels(logits, target, IGNORE)
    (gradient,) = torch.autograd.grad(segmentation.segmentation_cross_entropy(pixels).sum(), logits)
    assert (gradient[0, :, 0, 0] == 0).all()
    assert (gradient[0, :, 1, 1] != 0).all()
    plain = classification.cross_entropy(logits.permute(0, 2, 3, 1).reshape(4, 3)[1:], torch.tensor([0, 1, 2]))
    torch.testing.assert_close(segmentation.segmentation_cross_entropy(pixels), plain.mean()[None])


@pytest.mark.parametrize("case", ["equal", "no valid pixel", "zero depth"])
def test_scale_invariant_log_is_finite_with_a_finite_gradient(case: str) -> None:
    target = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.5
    depth = target.clone()
    if case == "no valid pixel":
        target = torch.zeros_like(target)
    if case == "zero depth":
        depth[:, 0] = 0
    depth.requires_grad_(True)
    loss = depth_losses.scale_invariant_log(depth, target)
    (gradient,) = torch.autograd.grad(loss.sum(), depth)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(gradient).all()
    assert bool((loss < 1e-3).all()) is not (case == "zero depth")


@pytest.mark.parametrize("axis", [1, 2])
def test_scale_invariant_log_sees_structure_along_rows_and_columns(axis: int) -> None:
    """Errors that cancel in the mean: only the variance term sees them. A sum over one axis too few would not."""
    target = torch.full((1, 4, 4), 2.0)
    factor = torch.tensor([2.0, 0.5, 2.0, 0.5])
    depth = target * (factor[None, :, None] if axis == 1 else factor[None, None, :])
    loss = depth_losses.scale_invariant_log(depth, target)
    torch.testing.assert_close(loss, torch.log(torch.tensor([2.0])))


def test_scale_invariant_log_counts_a_common_factor_little() -> None:
    target = torch.full((1, 4, 4), 2.0)
    loss = depth_losses.scale_invariant_log(3 * target, target)
    torch.testing.assert_close(loss, 0.15**0.5 * torch.log(torch.tensor([3.0])))


def test_losses_never_compare_images() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(3, 4, 5, 5, generator=generator), torch.randint(0, 4, (3, 5, 5), generator=generator)
    depth, metres = torch.rand(3, 5, 5, generator=generator) + 0.1, torch.rand(3, 5, 5, generator=generator)
    together = segmentation.segpgd(segmentation.segmentation_pixels(logits, target, IGNORE), 1 / 4)
    silog = depth_losses.scale_invariant_log(depth, metres)
    for i in range(3):
        alone = segmentation.segpgd(segmentation.segmentation_pixels(logits[[i]], target[[i]], IGNORE), 1 / 4)
        torch.testing.assert_close(alone, together[[i]])
        torch.testing.assert_close(depth_losses.scale_invariant_log(depth[[i]], metres[[i]]), silog[[i]])


def test_masked_mean_of_nothing_is_0() -> None:
    values, mask = torch.tensor([[1.0, 3.0], [5.0, torch.nan]]), torch.tensor([[True, True], [False, False]])
    assert masked_mean(values, mask).tolist() == [2.0, 0.0]
