"""Losses of classifiers: logits (B, C) and labels (B,) to one number per image, (B,)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from robustprobe.core.errors import UserError

_TINY = 1e-12


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of logits (B, C) with labels (B,)."""
    return F.cross_entropy(logits, target, reduction="none")


def margin(logits: Tensor, target: Tensor) -> Tensor:
    """Largest wrong logit minus the true one (Carlini & Wagner 2017): positive where the image is misclassified."""
    true = logits.gather(1, target[:, None])[:, 0]
    return logits.scatter(1, target[:, None], -torch.inf).amax(1) - true


def dlr(logits: Tensor, target: Tensor) -> Tensor:
    """Difference of logits ratio (Croce & Hein 2020, eq. 6): the margin over largest minus third logit.

    Raises:
        UserError: fewer than three classes.
    """
    _need_classes(logits, 3, "dlr")
    top = logits.topk(3, dim=1).values
    return margin(logits, target) / (top[:, 0] - top[:, 2] + _TINY)


def targeted_dlr(logits: Tensor, target: Tensor, goal: Tensor) -> Tensor:
    """Targeted difference of logits ratio (Croce & Hein 2020, eq. 7) towards the target classes `goal` (B,).

    Raises:
        UserError: fewer than four classes.
    """
    _need_classes(logits, 4, "targeted-dlr")
    top = logits.topk(4, dim=1).values
    gap = (logits.gather(1, goal[:, None]) - logits.gather(1, target[:, None]))[:, 0]
    return gap / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + _TINY)


def targeted_cross_entropy(logits: Tensor, goal: Tensor) -> Tensor:
    """Log-probability of the target classes `goal` (B,)."""
    return -cross_entropy(logits, goal)


def _need_classes(logits: Tensor, least: int, name: str) -> None:
    if logits.shape[1] < least:
        raise UserError(f"{name} needs {least} classes or more, the model has {logits.shape[1]}; use ce or margin.")
