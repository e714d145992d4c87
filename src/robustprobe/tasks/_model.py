"""The model that is attacked and judged: an encoder and a head; and how a notebook shows it."""

from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustprobe.core.device import device_of
from robustprobe.core.errors import UserError
from robustprobe.core.notebook import CaptionedPicture, card_html
from robustprobe.core.pictures import Pixels, Scale, class_colours, overlay, png_uri, scalar_uri
from robustprobe.core.types import Features, Sample
from robustprobe.core.views import Resized, Size, View
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
        return f"Model({', '.join(f'{name}: {fact}' for name, fact in _facts(self).items())})"

    def _repr_html_(self) -> str:
        return _html(self)


def _facts(model: Model) -> dict[str, str]:
    """What a model is made of, by the name of each fact."""
    card, classes = getattr(model.encoder, "card", None), model.task.space.classes
    weights = sum(parameter.numel() for parameter in model.head.parameters())
    return {
        "encoder": str(card.name) if card else type(model.encoder).__name__,
        "task": model.task.name + (f", {len(classes)} classes" if classes else ""),
        "metric": f"{model.task.metric}, {'higher' if model.task.higher_is_better else 'lower'} is better",
        "head": f"{type(model.head).__name__}, {weights:,} weights",
        "images": "as they are given" if model.size is None else f"resized to {model.size[0]} x {model.size[1]} pixels",
    }


def _html(model: Model) -> str:
    """Facts, and for each held-out image its label and the answer."""
    try:
        samples = model.sample_source()
        rows = [_row(model, sample) for sample in samples]
        # Single pictures stand side by side.
        rows = [[row[0] for row in rows]] if rows and len(rows[0]) == 1 else rows
    except UserError:
        # The data may be elsewhere by now; the facts stay.
        rows = []
    return card_html(f"Model for {model.task.name}", _facts(model), rows)


@torch.no_grad()
def _row(model: Model, sample: Sample) -> list[CaptionedPicture]:
    image = as_pixels(sample.image)
    output = model(sample.image[None].to(device_of(model) or "cpu"))[0].float().cpu()
    label = model.task.fit_labels(sample.targets[model.task.name][None], image.shape[:2])[0]
    truth, answer = (model.task.picture(value) for value in (label, model.task.shown_output(output)))
    if isinstance(truth, list) or isinstance(answer, list):
        named = "; ".join(f"{word} {_likeliest(found)}" for word, found in (("label", truth), ("answer", answer)))
        return [CaptionedPicture(png_uri(image), named)]
    pictures = _maps(model.task, image, truth, answer)
    return [CaptionedPicture(uri, name) for uri, name in zip(pictures, ("image", "label", "answer"), strict=True)]


def as_pixels(image: Tensor) -> Pixels:
    """An image (3, H, W) in [0, 1] as (H, W, 3) uint8."""
    return np.asarray((image.detach().cpu() * 255).round().clamp(0, 255).byte().permute(1, 2, 0))


def _likeliest(found: Any) -> str:
    name, share = found[0]
    return str(name) if share == 1 else f"{name} ({share:.2f})"


def _maps(task: Task, image: Pixels, *maps: NDArray[Any]) -> list[str]:
    """The image, then each map over it, on one scale or as it is."""
    display = task.display
    if display.kind == "class map":
        colours = class_colours(len(task.space.classes))
        return [png_uri(image), *(png_uri(overlay(image, one, colours)) for one in maps)]
    if display.kind == "scalar map":
        values = [one.astype(float) / display.scale for one in maps]
        valid = np.concatenate([one[one > 0] for one in values])
        scale = Scale(float(valid.min()), float(valid.max()), display.unit) if valid.size else Scale(0, 1, display.unit)
        return [png_uri(image), *(scalar_uri(one, scale) for one in values)]
    return [png_uri(image), *(png_uri(one) for one in maps)]
