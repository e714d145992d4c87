"""Semantic segmentation with a linear head on patch tokens; mIoU"""

from collections.abc import Mapping
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from robustprobe.core.types import AttackLosses, FeatureDims, Features, HeadDesign, LossContext
from robustprobe.losses import segmentation as losses
from robustprobe.metrics.dense import mean_iou
from robustprobe.metrics.intervals import Estimate, bootstrap
from robustprobe.tasks.base import Columns, Head, Task, resize


@final
class DenseHead(Head):
    """BatchNorm and a 1x1 convolution on patch tokens; logits upsampled bilinearly to the image."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(dim)
        self.conv = nn.Conv2d(dim, classes, 1)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        return resize(self.conv(self.norm(features.patches)), size)


def _pixels(output: Tensor, aim: LossContext) -> losses.SegmentationPixels:
    return aim.shared("pixels", output, lambda: losses.segmentation_pixels(output, aim.target, aim.space.ignore_index))


def _ce(output: Tensor, aim: LossContext) -> Tensor:
    return losses.segmentation_cross_entropy(_pixels(output, aim))


def _segpgd(output: Tensor, aim: LossContext) -> Tensor:
    return losses.segpgd(_pixels(output, aim), aim.progress)


def _cospgd(output: Tensor, aim: LossContext) -> Tensor:
    return losses.cospgd(_pixels(output, aim), aim.target)


def _masked_ce(output: Tensor, aim: LossContext) -> Tensor:
    return losses.masked_cross_entropy(_pixels(output, aim))


def _js(output: Tensor, aim: LossContext) -> Tensor:
    return losses.jensen_shannon(_pixels(output, aim))


def _masked_logit(output: Tensor, aim: LossContext) -> Tensor:
    return losses.masked_logit(_pixels(output, aim), output, aim.target)


def _harm(output: Tensor, aim: LossContext) -> Tensor:
    """Wrong pixels come first; between equally wrong iterates the cross-entropy decides, by less than one pixel."""
    pixels = _pixels(output, aim)
    loss = losses.segmentation_cross_entropy(pixels).double()
    return losses.wrong_share(pixels).double() + loss / (1 + loss) / aim.target[0].numel()


def _nothing_left(output: Tensor, aim: LossContext) -> Tensor:
    return ~_pixels(output, aim).correct.any(1)


@final
class Segmentation(Task):
    """Labels (B, h, w) with an ignored value, outputs logits (B, C, H, W)."""

    metric: ClassVar = "mIoU"
    unit: ClassVar = "share"
    higher_is_better: ClassVar = True
    attack_losses: ClassVar = AttackLosses(
        losses={
            "cospgd": _cospgd,
            "segpgd": _segpgd,
            "ce": _ce,
            "mask-ce": _masked_ce,
            "js": _js,
            "mask-logit": _masked_logit,
        },
        damage=_harm,
        step_loss=_ce,
        success=_nothing_left,
    )

    def head(self, widths: FeatureDims, design: HeadDesign) -> Head:
        return DenseHead(widths.patch, len(self.space.classes))

    def training_loss(self, output: Tensor, target: Tensor) -> Tensor:
        return losses.segmentation_cross_entropy(losses.segmentation_pixels(output, target, self.space.ignore_index))

    def rows(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        prediction = resize(output, (target.shape[-2], target.shape[-1])).argmax(1)
        return confusion_counts(prediction, target, len(self.space.classes), self.space.ignore_index)

    def score(self, rows: Mapping[str, Tensor]) -> Tensor:
        counts = (rows[c].cpu().double().numpy() for c in ("intersection", "predicted", "labelled"))
        return torch.from_numpy(mean_iou(*counts)).float()

    def estimates(self, rows: Columns) -> dict[str, Estimate]:
        return {
            self.metric: bootstrap(rows, lambda s: mean_iou(s["intersection"], s["predicted"], s["labelled"])),
            "pixel accuracy": bootstrap(rows, lambda s: s["intersection"].sum(-1) / s["labelled"].sum(-1)),
        }


def confusion_counts(prediction: Tensor, target: Tensor, classes: int, ignore_index: int) -> dict[str, Tensor]:
    """Per image and class: `intersection`, `predicted` and `labelled` pixel counts, each (B, C) int64.

    Args:
        prediction: class map (B, h, w).
        target: label map (B, h, w); pixels equal to `ignore_index` count nowhere.
    """
    valid = target != ignore_index
    return {
        "intersection": _counts(target, valid & (prediction == target), classes),
        "predicted": _counts(prediction, valid, classes),
        "labelled": _counts(target, valid, classes),
    }


def _counts(labels: Tensor, where: Tensor, classes: int) -> Tensor:
    image = torch.arange(len(labels), device=labels.device)[:, None, None].expand_as(labels)
    flat = (image * classes + labels)[where]
    return torch.bincount(flat, minlength=len(labels) * classes).reshape(len(labels), classes)
