"""Semantic segmentation with a linear head on patch tokens; mIoU"""

from collections.abc import Mapping
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from robustprobe import losses
from robustprobe.metrics import confusion_counts, mean_iou
from robustprobe.stats import Estimate, bootstrap
from robustprobe.tasks._base import Columns, Head, Task, resize
from robustprobe.types import Features, Widths


@final
class DenseHead(Head):
    """BatchNorm and a 1x1 convolution on patch tokens; logits upsampled bilinearly to the image."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(dim)
        self.conv = nn.Conv2d(dim, classes, 1)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        return resize(self.conv(self.norm(features.patches)), size)


@final
class Segmentation(Task):
    """Labels (B, h, w) with an ignored value, outputs logits (B, C, H, W)."""

    metric: ClassVar = "mIoU"
    unit: ClassVar = "share"
    higher_is_better: ClassVar = True

    def head(self, widths: Widths, pooling: str) -> Head:
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
