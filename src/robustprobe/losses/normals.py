"""Losses of surface normals: outputs and labels (B, 3, h, w) to one number per image, (B,).

Labels are unit vectors, zeros where unknown; outputs may have any length. The loss of an image without labels is 0.
"""

import torch
from torch import Tensor

from robustprobe.losses._masked import TINY, masked_mean


def cosine(normals: Tensor, target: Tensor) -> Tensor:
    """Mean of 1 - cos of the angle between prediction and label."""
    found = unit(normals)
    return masked_mean(1 - (found * target).sum(1).flatten(1), known(target))


def angular(normals: Tensor, target: Tensor) -> Tensor:
    """Mean angle between prediction and label in radians; differentiable at 0 and pi, unlike the arc cosine."""
    return masked_mean(angles(normals, target), known(target))


def angles(normals: Tensor, target: Tensor) -> Tensor:
    """Angle (B, P) of each pixel in radians; 0 where the label is unknown."""
    found = unit(normals)
    target = target.to(found.dtype)
    cross = torch.linalg.cross(found, target, dim=1)
    sine = (cross.square().sum(1) + TINY).sqrt()
    angle = torch.atan2(sine, (found * target).sum(1)).flatten(1)
    return torch.where(known(target), angle, 0)


def unit(normals: Tensor) -> Tensor:
    """Vectors (B, 3, h, w) scaled to length 1; zero vectors stay zero."""
    return normals / (normals.square().sum(1, keepdim=True) + TINY).sqrt()


def known(target: Tensor) -> Tensor:
    """Pixels (B, P) that have a label."""
    return (target != 0).any(1).flatten(1)
