"""Which blocks of an encoder are trained."""

import torch
from torch import Tensor, nn

from robustprobe.core.errors import UserError
from robustprobe.encoders import Encoder


def train_blocks(student: Encoder, which: str, images: Tensor) -> None:
    """Make a part of an encoder's weights trainable: `all`, those of the `first:K` or of the `last:K` blocks.

    What comes before the first block, and the final norm, are trained with the first blocks, not with the last ones.
    What a block holds is seen from gradients, so that it is right for any architecture.

    Args:
        images: (B, 3, H, W) in [0, 1].

    Raises:
        UserError: the encoder does not show its blocks, or has too few.
    """
    student.requires_grad_(True)
    if which == "all":
        return
    side, _, count = which.partition(":")
    try:
        if side == "first":
            chosen = _reached(student, int(count) - 1, images)
        else:
            chosen = _reached(student, -1, images) - _reached(student, -int(count) - 1, images)
    except UserError as error:
        raise UserError(f"trained blocks {which}: {error}") from error
    for parameter in student.parameters():
        parameter.requires_grad_(id(parameter) in chosen)


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that training changes."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _reached(encoder: Encoder, block: int, images: Tensor) -> set[int]:
    """Identities of the parameters that the features after a block depend on."""
    parameters = list(encoder.parameters())
    with torch.enable_grad():
        (found,) = encoder.layers(images, (block,))
        gradients = torch.autograd.grad(found.cls.sum() + found.patches.sum(), parameters, allow_unused=True)
    return {id(parameter) for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
