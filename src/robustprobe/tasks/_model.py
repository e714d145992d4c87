"""The model that is attacked and judged: an encoder and a head."""

from collections.abc import Callable, Sequence
from typing import final

from torch import Tensor, nn

from robustprobe.core.types import Features, Sample
from robustprobe.core.views import Resized, Size, View
from robustprobe.tasks._display import model_facts, model_html
from robustprobe.tasks._heads import Head
from robustprobe.tasks.base import Task


@final
class Model(nn.Module):
    """Encoder and head: images (B, 3, H, W) in [0, 1] to the task's output. The thing attacked and judged.

    `view` says how the encoder is shown the images; an attack acts on the images as they are given. `knn_head`, where
    there is one, is a k-NN head whose answers are recorded beside the first one's. `sample_source` gives a few labelled
    images, on which notebooks show the answers; by default none.
    """

    def __init__(self, encoder: nn.Module, head: Head, task: Task, view: View, knn_head: Head | None = None) -> None:
        super().__init__()
        self.encoder, self.head, self.task, self.view, self.knn_head = encoder, head, task, view, knn_head
        self.sample_source: Callable[[], Sequence[Sample]] = tuple

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

    def __repr__(self) -> str:
        return f"Model({', '.join(f'{name}: {fact}' for name, fact in model_facts(self).items())})"

    def _repr_html_(self) -> str:
        return model_html(self)
