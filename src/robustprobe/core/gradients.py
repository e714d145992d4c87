"""The gradient of images, with one message where a model gives none."""

import torch
from torch import Tensor

from robustprobe.core.errors import UserError

CUT = (
    "the model gives no gradient to the images: the graph is cut inside, by no_grad, detach, rounding, NumPy or "
    "quantised layers. Take that out, name the module that does it for a straight-through backward pass (bpda), or use "
    "an attack that needs no gradient, such as square."
)


def image_gradient(total: Tensor, images: Tensor, keep_graph: bool = False) -> Tensor:
    """The gradient of a sum of losses with respect to images, in their shape.

    Raises:
        UserError: there is none, or the model uses reentrant checkpointing, which gives none for images alone.
    """
    if not total.requires_grad:
        raise UserError(CUT)
    try:
        (gradient,) = torch.autograd.grad(total, images, retain_graph=keep_graph, allow_unused=True)
    except RuntimeError as error:
        if "heckpoint" not in str(error):
            raise
        raise UserError(
            "the model uses reentrant checkpointing, which gives no gradient of images; write checkpoint(..., "
            "use_reentrant=False), or switch it off: evaluation needs no checkpointing."
        ) from error
    if gradient is None:
        raise UserError(CUT)
    return gradient
