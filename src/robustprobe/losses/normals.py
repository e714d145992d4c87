"""Losses of surface normals: outputs and labels (B, 3, h, w) to one number per image, (B,).

Outputs need no unit length; one shorter than 1e-8 has no direction and counts as 90 degrees off. An image without a
known normal has the loss 0.

Sources: mean angular error and the share of pixels within 11.25, 22.5 and 30 degrees are the metrics of Fouhey et al.
(ICCV 2013) and Bae et al. (ICCV 2021); El Banani et al. (CVPR 2024, probe3d) probe frozen encoders for normals.
"""

import torch
from torch import Tensor

from robustprobe.losses._masked import TINY, masked_mean


def cosine(normals: Tensor, target: Tensor) -> Tensor:
    """Mean of 1 - cos of the angle between prediction and label."""
    return masked_mean((1 - (normals * target).sum(1) / _length(normals)).flatten(1), known(target))


def angular(normals: Tensor, target: Tensor) -> Tensor:
    """Mean angle between prediction and label in radians."""
    return masked_mean(angles(normals, target), known(target))


def angles(normals: Tensor, target: Tensor) -> Tensor:
    """Angle (B, P) of each pixel in radians; undefined where the label is unknown.

    By atan2 of |cross product| and dot product: the gradient of acos is infinite at 0 and pi, and half of the digits of
    small angles are lost in their cosine.
    """
    target = target.to(normals.dtype)
    squared = torch.linalg.cross(normals, target, dim=1).square().sum(1)
    # The root's gradient at 0 is infinite, the clamp's below its bound is 0. `vector_norm` would do, but is slower.
    sine = squared.clamp(min=torch.finfo(squared.dtype).tiny).sqrt()
    short = normals.square().sum(1) < TINY**2
    # In double precision: in the last elements of a tensor some processors round float32 atan2 otherwise, and an image
    # alone and in a batch would differ.
    angle = torch.atan2(torch.where(short, 1, sine).double(), (normals * target).sum(1).double())
    return angle.to(normals.dtype).flatten(1)


def unit(normals: Tensor) -> Tensor:
    """Vectors (B, 3, h, w) of length 1; those shorter than 1e-8 stay as they are."""
    return normals / _length(normals)[:, None]


def known(target: Tensor) -> Tensor:
    """Pixels (B, P) that have a label."""
    return (target != 0).any(1).flatten(1)


def _length(normals: Tensor) -> Tensor:
    """Length of each vector, (B, h, w); 1 for those shorter than 1e-8."""
    squared = normals.square().sum(1)
    return torch.where(squared < TINY**2, 1, squared).sqrt()
