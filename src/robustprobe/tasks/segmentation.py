"""Semantic segmentation with a linear head on patch tokens; mIoU"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustprobe.core.spec import Display, Statistic
from robustprobe.core.types import (
    AttackLosses,
    EnsembleMember,
    FeatureDims,
    Features,
    HeadDesign,
    LabelSpace,
    LabelStatistics,
    LossContext,
    SanityCheck,
)
from robustprobe.losses import segmentation as losses
from robustprobe.metrics.dense import lowest_mean_iou, mean_iou
from robustprobe.metrics.statistics import Columns
from robustprobe.tasks._class_labels import (
    class_labels,
    found_classes,
    lone_class,
    looks_like_probabilities,
    missing_classes,
    several_classes,
    sigmoid_doubts,
)
from robustprobe.tasks._heads import Head
from robustprobe.tasks._maps import resize
from robustprobe.tasks._recipe import TaskRecipe
from robustprobe.tasks.base import Task


@final
class DenseHead(Head):
    """BatchNorm and a 1x1 convolution on patch tokens; logits upsampled bilinearly to the image."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(dim)
        self.conv = nn.Conv2d(dim, classes, 1)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        return resize(self.conv(self.norm(features.patches)), size)


def _pixels(output: Tensor, context: LossContext) -> losses.SegmentationPixels:
    return context.shared(
        "pixels", output, lambda: losses.segmentation_pixels(output, context.target, context.space.ignore_index)
    )


def _ce(output: Tensor, context: LossContext) -> Tensor:
    return losses.segmentation_cross_entropy(_pixels(output, context))


def _segpgd(output: Tensor, context: LossContext) -> Tensor:
    return losses.segpgd(_pixels(output, context), context.progress)


def _cospgd(output: Tensor, context: LossContext) -> Tensor:
    return losses.cospgd(_pixels(output, context), context.target)


def _masked_ce(output: Tensor, context: LossContext) -> Tensor:
    return losses.masked_cross_entropy(_pixels(output, context))


def _balanced_masked_ce(output: Tensor, context: LossContext) -> Tensor:
    shares = context.space.class_shares
    return losses.balanced_masked_cross_entropy(_pixels(output, context), context.target, shares)


def _js(output: Tensor, context: LossContext) -> Tensor:
    return losses.jensen_shannon(_pixels(output, context))


def _masked_logit(output: Tensor, context: LossContext) -> Tensor:
    return losses.masked_logit(_pixels(output, context), output, context.target)


def _damage(output: Tensor, context: LossContext) -> Tensor:
    """Wrong pixels come first; between equally wrong iterates the cross-entropy decides, by less than one pixel."""
    pixels = _pixels(output, context)
    loss = losses.segmentation_cross_entropy(pixels).double()
    return losses.wrong_share(pixels).double() + loss / (1 + loss) / context.target[0].numel()


def _mean_iou(output: Tensor, context: LossContext) -> Tensor:
    classes, ignored = len(context.space.classes), context.space.ignore_index
    counts = confusion_counts(output.argmax(1), context.target, classes, ignored)
    return _scores(counts).to(output.device)


def _scores(rows: Mapping[str, Tensor]) -> Tensor:
    return torch.from_numpy(mean_iou(*(rows[c].cpu().double().numpy() for c in COUNTS)))


def _nothing_left(output: Tensor, context: LossContext) -> Tensor:
    return ~_pixels(output, context).correct.any(1)


LOSSES = AttackLosses(
    losses={
        "cospgd": _cospgd,
        "segpgd": _segpgd,
        "ce": _ce,
        "mask-ce": _masked_ce,
        "mask-ce-bal": _balanced_masked_ce,
        "js": _js,
        "mask-logit": _masked_logit,
    },
    damage=_damage,
    score=_mean_iou,
    step_loss=_ce,
    success=_nothing_left,
    black_box="ce",
    ensemble=(
        EnsembleMember("cospgd", "apgd"),
        EnsembleMember("mask-ce-bal", "staged-apgd"),
        EnsembleMember("mask-ce", "staged-apgd"),
        EnsembleMember("js", "staged-apgd"),
    ),
    balanced=frozenset({"mask-ce-bal"}),
    of_set=True,
)
_DESIGN = HeadDesign(pooling="patch")
COUNTS = ("intersection", "predicted", "labelled")
MOST_IGNORED = 0.5
NO_CLASS = 255
EXAMPLE_UNKNOWN = 0.1


@final
class Segmentation(Task):
    """Labels (B, h, w) with an ignored value, outputs logits (B, C, H, W)."""

    hub_task: ClassVar = "image-segmentation"
    metric: ClassVar = "mIoU"
    unit: ClassVar = "share"
    nothing_valid: ClassVar = "every pixel is ignored"
    higher_is_better: ClassVar = True
    statistics: ClassVar = {
        "mIoU": Statistic(kind="mean_iou", columns=COUNTS),
        "pixel accuracy": Statistic(kind="ratio", columns=("intersection", "labelled")),
    }
    attack_losses = LOSSES
    attacks: ClassVar = ()
    display: ClassVar = Display(kind="class map")
    recipes: ClassVar = {
        "fast": TaskRecipe(designs=(_DESIGN,)),
        "standard": TaskRecipe(
            learning_rates=(1e-3,),
            weight_decay=1e-3,
            batch_size=16,
            steps=40_000,
            warmup=1500,
            augment="scale-crop",
            label_stride=1,
            designs=(_DESIGN,),
        ),
        "paper": TaskRecipe(
            learning_rates=(1e-3,),
            batch_size=16,
            epochs=50,
            warmup=1500,
            schedule="linear",
            augment="crop",
            label_stride=1,
            designs=(_DESIGN,),
        ),
    }

    def __init__(self, space: LabelSpace, name: str = "") -> None:
        super().__init__(space, name)
        self.no_label = space.ignore_index

    def head(self, dims: FeatureDims, design: HeadDesign) -> Head:
        return DenseHead(dims.patch, len(self.space.classes))

    def training_loss(self, output: Tensor, target: Tensor) -> Tensor:
        return losses.segmentation_cross_entropy(losses.segmentation_pixels(output, target, self.space.ignore_index))

    def rows(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        prediction = resize(output, (target.shape[-2], target.shape[-1])).argmax(1)
        return confusion_counts(prediction, target, len(self.space.classes), self.space.ignore_index)

    def score(self, rows: Mapping[str, Tensor]) -> Tensor:
        return _scores(rows).float()

    def worst_choice(self, rows: Sequence[Columns]) -> NDArray[np.int64]:
        """Greedy: one image after another takes the choice with which the mIoU of the set is lowest."""
        return lowest_mean_iou(*(np.stack([np.asarray(some[c], dtype=float) for some in rows]) for c in COUNTS))

    def space_of_set(self, targets: Iterable[Tensor]) -> LabelSpace:
        """The label space with the share of pixels of each class; of unseen classes that of the rarest one seen."""
        counts = torch.zeros(len(self.space.classes), dtype=torch.float64)
        for target in targets:
            counts += torch.bincount(self.counted(target).cpu(), minlength=len(counts))
        if not counts.any():
            return self.space
        counts[counts == 0] = counts[counts > 0].min()
        return replace(self.space, class_shares=tuple((counts / counts.sum()).tolist()))

    def chance(self, rows: Columns) -> float | None:
        """MIoU of one class everywhere: the share of its pixels, and nothing for the other classes that occur."""
        pixels = np.asarray(rows["labelled"], dtype=float).sum(0)
        return float(pixels.max() / pixels.sum() / (pixels > 0).sum()) if pixels.sum() else None

    def absent_classes(self, rows: Columns) -> int:
        predicted, labelled = (np.asarray(rows[name]).sum(0) for name in ("predicted", "labelled"))
        return int(((labelled == 0) & (predicted > 0)).sum())

    def check_values(self, label: Tensor) -> Tensor:
        return class_labels(label, self.space, ignored=True)

    def example_targets(self, count: int, size: tuple[int, int], generator: torch.Generator | None = None) -> Tensor:
        classes = torch.randint(0, len(self.space.classes), (count, *size), generator=generator)
        ignored = torch.rand(count, *size, generator=generator) < EXAMPLE_UNKNOWN
        return torch.where(ignored, self.space.ignore_index, classes)

    def counted(self, target: Tensor) -> Tensor:
        return target[target != self.space.ignore_index]

    def describe_labels(self, found: LabelStatistics) -> str:
        ignored = 1 - found.used / max(1, found.total)
        return f"{found_classes(found, self.space)}, {ignored:.1%} ignored"

    def label_warnings(self, found: LabelStatistics, whole: bool) -> list[str]:
        ignored = 1 - found.used / max(1, found.total)
        warnings = [f"{ignored:.0%} of the pixels are ignored"] if ignored > MOST_IGNORED else []
        if len(found.values) == 1:
            only = f"every labelled pixel is {self.space.classes[int(found.values[0])]}"
            binary = f", and {ignored:.0%} are {self.space.ignore_index}, which is ignored: write masks of 0 and 1"
            warnings.append(only + binary * (found.used < found.total))
        else:
            warnings += lone_class(found, self.space)
        return warnings + (missing_classes(found, self.space, self.name) if whole else [])

    @classmethod
    def implied_space(cls, output: Tensor) -> LabelSpace:
        return several_classes(output)

    def answer_doubts(self, output: Tensor) -> list[str]:
        return sigmoid_doubts(output)

    def output_checks(self, output: Tensor) -> list[SanityCheck]:
        return [looks_like_probabilities(output)]

    def shown_output(self, output: Tensor) -> Tensor:
        return output.argmax(0).to(torch.uint8)

    def picture(self, shown: Tensor) -> NDArray[Any]:
        known = torch.where(shown == self.space.ignore_index, NO_CLASS, shown.long())
        return known.numpy().astype(np.uint8)


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
