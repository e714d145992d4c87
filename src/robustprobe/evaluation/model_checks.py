"""Sanity checks of a model rather than of an attack: is its gradient that of its loss, and does it see one image alone?

Finite differences are the check of Carlini et al. (2019, section 4) that asks for no second attack.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from robustprobe.core.threat import image_generator
from robustprobe.core.types import LossContext, SanityCheck
from robustprobe.tasks import Task

# Steps as parts of eps. The loss's own gradient predicts better and better as the step shrinks; another one does not.
FINE, FINEST = 20, 200
ATTACK = 4
# Largest median errors; honest models curve more over the longer step.
MOST_FINE, MOST_ROUGH = 0.5, 0.75
FALSE = "the gradient is not that of the loss, so a white-box score is too good"
ROUGH = (
    "the loss is rough over the steps of an attack, so a gradient attack may miss what a search without gradients finds"
)
LARGEST_STEP = 2 / 255
DIRECTIONS = 4
# Changes of the loss below this share of it are rounding in float32.
ROUNDING = 1e-5
MOST_BATCH_EFFECT = 1e-3


class CheckedModel(NamedTuple):
    """A model of a task, images (n, 3, H, W) with their ids, and their labels (n, ...)."""

    function: Callable[[Tensor], Tensor]
    task: Task
    images: Tensor
    ids: Sequence[str]
    targets: Tensor

    def losses(self, images: Tensor) -> Tensor:
        """The loss that attacks of the task raise, (n,) in double precision."""
        output = self.function(images)
        losses = self.task.attack_losses
        context = LossContext(self.task.fit_labels(self.targets, (output.shape[-2], output.shape[-1])), self.task.space)
        loss: Tensor = (losses.step_loss or losses.losses[losses.default])(output, context)
        return loss.double()


def gradient_check(model: CheckedModel, eps: float, norm: str) -> SanityCheck | None:
    """Whether the loss changes along directions as its gradient predicts; None where it does not change at all.

    Central differences at eps / 20 and at eps / 4, at most 2/255, in each image, along the sign of the gradient and
    random directions of signs: a gradient that belongs to a part of the model, or to another function, predicts some of
    them wrongly. Where eps / 20 is wrong, eps / 200 decides whether the gradient is false or the loss is rough: on
    large images even eps / 20 can be a long step. An error is |change - prediction| / max(|change|, |prediction|);
    medians count, and the value is the larger one. Costs 17 forward passes and a backward pass per image, and 8 more
    where eps / 20 is wrong.

    Args:
        model: what is checked; it sees images inside [0, 1] alone.
        eps: the size of the attack in its norm.
        norm: `linf`, or another one, in which a step along all pixels is as long as eps / 20.
    """
    length = _length(norm, model.images[0].numel())
    steps = {part: min(eps / part / length, LARGEST_STEP) for part in (FINE, ATTACK)}
    margin = max(steps.values())
    centre = model.images.clamp(margin, 1 - margin).detach().requires_grad_()
    loss = model.losses(centre)
    if not loss.requires_grad:
        return SanityCheck("gradient", 1.0, False, "the model gives no gradient, so the attack could not use one")
    (gradient,) = torch.autograd.grad(loss.sum(), centre)
    point = _Point(centre.detach(), loss.detach(), gradient)
    directions = [gradient.sign(), *(direction.to(centre) for direction in _directions(model))]

    def error(step: float) -> float:
        return _median_error(model, point, [direction * step for direction in directions])

    found = {part: error(step) for part, step in steps.items()}
    if any(math.isnan(value) for value in found.values()):
        return None
    false = found[FINE] > MOST_FINE
    if false and not math.isnan(finest := error(steps[FINE] * FINE / FINEST)):
        found[FINEST] = finest
        false = finest > MOST_FINE
    return _gradient_verdict(found, false)


def _gradient_verdict(found: dict[int, float], false: bool) -> SanityCheck:
    """The check of errors by part of eps, where the gradient is known to be false or not."""
    rough = found[ATTACK] > MOST_ROUGH
    means = f": {FALSE if false else ROUGH}" if false or rough else ""
    errors = " and ".join(f"{found[part]:.1%} over eps/{part}" for part in sorted(found, reverse=True))
    text = f"the loss changes as its gradient predicts up to {errors}{means}"
    near = min(value for part, value in found.items() if part != ATTACK)
    return SanityCheck("gradient", max(near, found[ATTACK]), not means, text)


class _Point(NamedTuple):
    """Images (n, 3, H, W) with their losses (n,) and the gradient."""

    images: Tensor
    loss: Tensor
    gradient: Tensor


def _length(norm: str, pixels: int) -> float:
    """Size of a perturbation of 1 in every pixel."""
    return {"linf": 1.0, "l2": math.sqrt(pixels), "l1": float(pixels)}.get(norm, 1.0)


def _directions(model: CheckedModel) -> list[Tensor]:
    shape = model.images.shape[1:]
    generators = [image_generator(0, identity, "finite differences") for identity in model.ids]
    return [
        torch.stack([torch.randint(0, 2, shape, generator=generator) * 2.0 - 1 for generator in generators])
        for _ in range(DIRECTIONS - 1)
    ]


def _median_error(model: CheckedModel, point: _Point, moves: Sequence[Tensor]) -> float:
    """Median error over images and moves; NaN where all changes are rounding."""
    errors = torch.cat([_error(model, point, move) for move in moves])
    return float(errors.nanmedian())


def _error(model: CheckedModel, point: _Point, move: Tensor) -> Tensor:
    """Relative error of the predicted change per image (n,); NaN where both are rounding."""
    with torch.no_grad():
        change = (model.losses(point.images + move) - model.losses(point.images - move)) / 2
    predicted = (point.gradient.double() * move.double()).flatten(1).sum(1)
    size = torch.maximum(change.abs(), predicted.abs())
    error = (change - predicted).abs() / size
    return torch.where(size > ROUNDING * point.loss.abs().clamp(min=1), error, torch.nan).cpu()


def gradient_difference(function: Callable[[Tensor], Any], other: Callable[[Tensor], Any], images: Tensor) -> float:
    """Mean over images of how far two functions' gradients are apart, as a share of the longer one.

    Gradients are those of the answers' sum with fixed random signs, so that no loss is needed: answers may be features.
    """
    ours, theirs = (_pulled_back(one, images).flatten(1) for one in (function, other))
    length = torch.maximum(ours.norm(dim=1), theirs.norm(dim=1))
    apart = (ours - theirs).norm(dim=1) / length.clamp(min=torch.finfo(length.dtype).tiny)
    return float(apart.mean())


def _pulled_back(function: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    seen = images.detach().clone().requires_grad_()
    total = torch.zeros((), device=images.device)
    for part in tree_leaves(function(seen)):
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, part.shape, generator=generator) * 2.0 - 1
        total = total + (part * signs.to(part)).sum()
    if not total.requires_grad:
        return torch.zeros_like(seen)
    (gradient,) = torch.autograd.grad(total, seen)
    return gradient.double()


def batch_check(model: CheckedModel, together: Tensor | None = None) -> SanityCheck:
    """Whether an image is answered alike alone and among others: the largest difference over the answers' spread.

    Args:
        together: what the model answered to its images, where that is known.
    """
    with torch.no_grad():
        together = model.function(model.images) if together is None else together
        alone = torch.cat([model.function(image[None]) for image in model.images])
    if alone.shape != together.shape:
        text = f"images one by one get answers {tuple(alone.shape)}, together {tuple(together.shape)}"
        return SanityCheck("batch of one", 1.0, False, f"{text}: the score depends on the batch")
    spread = float(together.double().std(correction=0))
    difference = float((together - alone).abs().max())
    value = difference / spread if spread else difference
    passed = value <= MOST_BATCH_EFFECT
    means = "" if passed else ": the score depends on which images are attacked together"
    return SanityCheck(
        "batch of one", value, passed, f"alone and in a batch answers differ by {value:.2g} of their spread{means}"
    )
