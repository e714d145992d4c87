"""Rectangles inside images: their size from a share of the area, their places, and pixels cut out and put in."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from robustprobe.core.views import Size

Box = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""


def patch_size(share: float, size: Size) -> Size:
    """(h, w) of the patch nearest to a square that covers at most a share of images (H, W); one pixel at least."""
    height, width = size
    area = share * height * width
    h = max(1, min(height, math.floor(math.sqrt(area) + 1e-9)))
    w = max(1, min(width, math.floor(area / h + 1e-9)))
    return (h, w) if w < width else (max(1, min(height, math.floor(area / w + 1e-9))), w)


def boxes_at(places: Tensor, patch: Size, size: Size) -> Tensor:
    """Boxes (n, 4): top, left, height and width of patches (h, w) in images (H, W).

    Args:
        places: (n, 2) shares from 0 to 1, down and to the right, of the way that a patch has room.
    """
    room = torch.tensor([size[0] - patch[0], size[1] - patch[1]], dtype=torch.float64)
    corners = (places.double() * room).round().long()
    return torch.cat([corners, torch.tensor([patch]).expand(len(corners), 2)], 1)


def box_mask(boxes: Tensor, size: Size) -> Tensor:
    """Which pixels (n, H, W) lie in boxes (n, 4)."""
    top, left, height, width = boxes.T[:, :, None]
    rows, columns = (torch.arange(length, device=boxes.device) for length in size)
    down = (rows >= top) & (rows < top + height)
    right = (columns >= left) & (columns < left + width)
    mask: Tensor = down[:, :, None] & right[:, None, :]
    return mask


def cut_out(images: Tensor, boxes: Tensor) -> Tensor:
    """The pixels (n, 3, h, w) of images (n, 3, H, W) in boxes (n, 4) of one size."""
    found: Tensor = images[_index(boxes)]
    return found


def put_in(images: Tensor, boxes: Tensor, patches: Tensor) -> Tensor:
    """Images (n, 3, H, W) with patches (n, 3, h, w) in boxes (n, 4) of one size."""
    return images.index_put(_index(boxes), patches)


def _index(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    where = boxes.device
    height, width = (int(boxes[0, k]) for k in (2, 3))
    rows = boxes[:, :1] + torch.arange(height, device=where)
    columns = boxes[:, 1:2] + torch.arange(width, device=where)
    number, channel = torch.arange(len(boxes), device=where), torch.arange(3, device=where)
    return number[:, None, None, None], channel[None, :, None, None], rows[:, None, :, None], columns[:, None, None, :]


def touched(mask: Tensor, size: Size) -> Tensor:
    """The entries (n, h, w) of a map of another size that a mask (n, H, W) touches."""
    if mask.shape[-2:] == size:
        return mask
    found: Tensor = F.adaptive_max_pool2d(mask.float()[:, None], size)[:, 0] > 0
    return found
