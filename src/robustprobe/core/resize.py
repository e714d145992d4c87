"""Images at another size: bilinear with antialiasing, the one way the package resizes images."""

import torch.nn.functional as F
from torch import Tensor


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, 3, h, w), or one image (3, h, w), in [0, 1] at `size` (H, W)."""
    if images.shape[-2:] == size:
        return images
    if images.ndim == 3:
        return resized(images[None], size)[0]
    return F.interpolate(images, size=size, mode="bilinear", antialias=True).clamp(0, 1)
