"""What an attack may see of a model or an encoder: the only place where a `Victim` is built."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustprobe.attacks import Victim
from robustprobe.core.straight_through import StandIn, straight_through
from robustprobe.core.types import Features
from robustprobe.core.views import Size, View, as_one
from robustprobe.encoders import Encoder
from robustprobe.tasks import Head, Model, Task

SurrogatesOf = Callable[[Size], Sequence[Head]]


class BackwardPass(NamedTuple):
    """What stands in for modules, by name, and for the whole model in the backward pass; see `straight_through`."""

    modules: Mapping[str, StandIn | None] = MappingProxyType({})
    whole: StandIn | None = None

    def of(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The model with this backward pass."""
        return straight_through(function, self.modules, self.whole)

    def inside(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of the model's layers with this backward pass of its modules."""
        return straight_through(function, self.modules)


IDENTICAL = BackwardPass()


def task_victim(
    function: Callable[[Tensor], Any],
    task: Task,
    targets: Tensor,
    size: Size,
    *,
    precision: str,
    bpda: BackwardPass = IDENTICAL,
) -> Victim:
    """A model of a task and its labels, as an attack on that task sees them.

    Args:
        function: a `Model`, or any callable from images (B, 3, H, W) to the task's outputs.
        targets: labels (B, ...); maps are resized to the model's output.
        size: (H, W) of the images.
        precision: `fp32`, or `bf16` for a model that runs under autocast.
        bpda: what stands in for parts of the model in the backward pass.
    """
    size = function.view.output_size(size) if isinstance(function, Model) else size
    labels = task.fit_labels(targets, size)
    seen = bpda.of(in_precision(function, precision))
    return Victim(seen, labels, task.space, task.attack_losses, task.name, without=task.without)


def encoder_victim(
    encoder: Callable[[Tensor], Any],
    view: View | None,
    *,
    precision: str,
    goals: Tensor | None = None,
    surrogates: SurrogatesOf | None = None,
    bpda: BackwardPass = IDENTICAL,
) -> Victim:
    """An encoder without a head, as an attack on embeddings sees it.

    Args:
        encoder: an `Encoder`, or any callable from images to features; a callable shows no layers.
        view: how images are shown to the encoder; None: as they are.
        precision: as in `task_victim`, for the features of layers too.
        goals: images (B, 3, H, W) whose embedding a targeted attack approaches.
        surrogates: surrogate heads on features of images of a size, where there are some.
        bpda: what stands in for parts of the encoder in the backward pass.
    """
    function = bpda.of(in_precision(partial(view.embedding, encoder) if view else encoder, precision))
    if not isinstance(encoder, Encoder):
        return Victim(function, goals=goals)
    layers = bpda.inside(in_precision(partial(_layers, encoder, view), precision))
    heads = partial(_heads, surrogates, view) if surrogates else None
    return Victim(function, layers=layers, goals=goals, surrogate_heads=heads)


def in_precision(function: Callable[..., Any], precision: str) -> Callable[..., Any]:
    """A function of images under autocast where `precision` is bf16; its answers come back in fp32."""
    if precision == "fp32":
        return function

    def call(images: Tensor, *rest: Any) -> Any:
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            answer = function(images, *rest)
        return _in_fp32(answer)

    return call


def _in_fp32(answer: Any) -> Any:
    if isinstance(answer, Features):
        return Features(*(part.float() for part in answer))
    return [_in_fp32(part) for part in answer] if isinstance(answer, list) else answer.float()


def _layers(encoder: Encoder, view: View | None, images: Tensor, which: tuple[int, ...]) -> list[Features]:
    found = encoder.layers(view.cut(images) if view else images, which)
    return [as_one(features, len(images)) for features in found]


def _heads(surrogates: SurrogatesOf, view: View | None, size: Size) -> Sequence[Head]:
    return surrogates(view.part_size(size) if view else size)
