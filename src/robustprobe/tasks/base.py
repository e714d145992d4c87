"""What every task is: a head, its training loss, a score per image, and the number a set of scores makes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast, final

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from robustprobe.core.registry import tasks
from robustprobe.core.types import AttackLoss, AttackLosses, FeatureDims, Features, HeadDesign, LabelSpace, LossContext
from robustprobe.core.views import Resized, Size, View
from robustprobe.metrics.intervals import Estimate

Columns = Mapping[str, NDArray[Any]]


class Head(nn.Module, ABC):
    """A small trainable map from frozen features to an output for images of a given size."""

    @abstractmethod
    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Output for images of `size` (H, W)."""


@final
class Model(nn.Module):
    """Encoder and head: images (B, 3, H, W) in [0, 1] to the task's output. The thing attacked and judged.

    `view` says how the encoder is shown the images; an attack acts on the images as they are given. `knn_head`, where
    there is one, is another head whose opinion is recorded beside the first one's.
    """

    def __init__(self, encoder: nn.Module, head: Head, task: "Task", view: View, knn_head: Head | None = None) -> None:
        super().__init__()
        self.encoder, self.head, self.task, self.view, self.knn_head = encoder, head, task, view, knn_head

    @property
    def size(self) -> Size | None:
        """(H, W) that images are resized to; None where they are taken as they are."""
        return self.view.size if isinstance(self.view, Resized) else None

    def features(self, images: Tensor) -> Features:
        """Features of the parts of images (B, 3, H, W) in [0, 1] that the head reads."""
        return self.view.features(self.encoder, images)

    def answer(self, features: Features, size: tuple[int, int]) -> Tensor:
        """The output for images of `size` (H, W) whose features these are."""
        return self.view.join(self.head(features, self.view.part_size(size)), size)

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(self.features(images), (images.shape[-2], images.shape[-1]))


class Task(ABC):
    """A task over one label space. Stateless: all numbers come from outputs, labels and rows."""

    metric: ClassVar[str]
    unit: ClassVar[str]
    higher_is_better: ClassVar[bool]
    attack_losses: ClassVar[AttackLosses]
    """Losses that attacks raise by name, and what tells whether they got anywhere."""

    def __init__(self, space: LabelSpace) -> None:
        self.space = space

    @final
    @property
    def name(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def head(self, widths: FeatureDims, design: HeadDesign) -> Head:
        """A fresh head on features of these channels, as many as the layers of the design have together."""

    @abstractmethod
    def training_loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Loss (B,) that heads are trained with; labels have the size of the output."""

    @abstractmethod
    def rows(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """What each image contributes to the metrics: columns (B,) or (B, C), at the resolution of the labels."""

    @abstractmethod
    def score(self, rows: Mapping[str, Tensor]) -> Tensor:
        """One number an image (B,), in the unit of the metric."""

    @abstractmethod
    def estimates(self, rows: Columns) -> dict[str, Estimate]:
        """Metrics over all images with their intervals; the headline metric comes first."""


def load_task(name: str, space: LabelSpace) -> Task:
    """The task of a name over a label space. Raises UserError for an unknown name."""
    return cast(type[Task], tasks.get(name))(space)


def on_labels(loss: Callable[[Tensor, Tensor], Tensor]) -> AttackLoss:
    """A loss of output and labels, as attacks call it."""

    def call(output: Tensor, aim: LossContext) -> Tensor:
        return loss(output, aim.target)

    return call


def fit_labels(target: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels as training and attacks see them: maps (B, h, w) at the size of the images, by the nearest pixel.

    Labels (B,) without axes of space stay as they are.
    """
    if target.ndim == 1 or target.shape[-2:] == size:
        return target
    return F.interpolate(target[:, None].float(), size=size, mode="nearest-exact")[:, 0].to(target.dtype)


def resize(output: Tensor, size: tuple[int, int]) -> Tensor:
    """Output maps (B, C, h, w) at another size, bilinearly."""
    if output.shape[-2:] == size:
        return output
    return F.interpolate(output, size=size, mode="bilinear", align_corners=False)


def mean_over_images(values: Mapping[str, NDArray[np.floating[Any]]]) -> NDArray[np.float64]:
    """Statistic for `stats.bootstrap`: sum of `value` over sum of `counted`."""
    with np.errstate(invalid="ignore"):  # a resample may hold no image that counts: NaN, and left out
        return np.asarray(values["value"] / values["counted"])
