"""What timm's families of networks return, read as a class token and a map; and the size each is served at."""

from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from robustprobe.core.errors import UserError

SEVERAL_MAPS = {
    "CrossVit": "it has two branches of patches of different sizes, and no map of all features",
    "EfficientViM": "its class scores come from several stages together, and no map has all features",
}


class LastLayer(NamedTuple):
    """Class token (B, D) or None, and map (B, D, h, w) of the last layer.

    A norm that the network applies to the pooled vector is not applied yet.
    """

    token: Tensor | None
    maps: Tensor


class ServedSize(NamedTuple):
    """(H, W) of images, the patch size at it, and a note where the size is not the one of the weights."""

    size: tuple[int, int]
    patch: int
    note: str = ""


def last_layer(model: Any, images: Tensor, grid: tuple[int, int]) -> LastLayer:
    """The last layer for normalised images; `grid` is the (h, w) that the map is to have.

    Raises:
        UserError: the network returns neither a map nor tokens of one grid.
    """
    family = type(model).__name__
    if family == "Hiera":
        # Its tokens are in order of windows; its intermediates are in image order.
        return LastLayer(None, model.forward_intermediates(images, indices=1, intermediates_only=True)[-1])
    if family == "PoolingVisionTransformer":
        tokens, maps = model.forward_intermediates(images, indices=1)
        return LastLayer(tokens[:, 0], _over_channels(model.norm, maps[-1]))
    final = model.forward_features(images)
    if family == "CoaT" and isinstance(final, tuple | list):
        pooled = model.forward_head(final, pre_logits=True)
        return LastLayer(pooled, as_map(final[-1][:, 1:], grid))
    if not isinstance(final, Tensor) or final.ndim not in (3, 4):
        raise UserError(
            f"features of {family} are {_described(final)}, not one map or one grid of tokens; use another model."
        )
    if final.ndim == 4:
        return LastLayer(None, final.permute(0, 3, 1, 2) if getattr(model, "output_fmt", "NCHW") == "NHWC" else final)
    prefix = final.shape[1] - grid[0] * grid[1]
    if prefix < 0:
        raise UserError(f"{family} returns {final.shape[1]} tokens for a grid of {grid}; use another model.")
    return LastLayer(final[:, 0] if prefix else None, as_map(final[:, prefix:], grid))


def pooled_and_map(layer: LastLayer, norm: nn.Module, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """CLS (B, D) and map (B, D, h, w) of the last layer, after the norm that the network applies once it has pooled.

    CLS is the class token or the mean of the map, as the network pools. A map of another size than `grid`, which
    networks without padding have, is resized to it.
    """
    mean = layer.maps.mean((2, 3), keepdim=True) if layer.token is None else layer.token[:, :, None, None]
    maps = _over_channels(norm, layer.maps)
    if maps.shape[2:] != grid:
        maps = F.interpolate(maps, grid, mode="bilinear", align_corners=False)
    return _over_channels(norm, mean)[:, :, 0, 0], maps


def norm_after_pooling(model: Any) -> nn.Module:
    """The norm that a network applies to its pooled vector; the identity where there is none.

    A norm inside the classifier, after a hidden layer, is not one.
    """
    early = getattr(model, "norm", None)
    late = getattr(model, "fc_norm", None)
    if isinstance(late, nn.Module) and isinstance(early, nn.Identity):
        return late
    norm = getattr(getattr(model, "head", None), "norm", None)
    if not isinstance(norm, nn.Module) or isinstance(norm, nn.Identity):
        return nn.Identity()
    weight = getattr(norm, "weight", None)
    return norm if weight is None or weight.shape[0] == model.num_features else nn.Identity()


def has_class_token(model: Any) -> bool:
    """Whether the first token is a class token; NaFlexViT has it among its embeddings."""
    holders = (model, getattr(model, "embeds", None))
    return any(getattr(holder, "cls_token", None) is not None for holder in holders)


def as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (B, h * w, D) as (B, D, h, w)."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)


def served_size(size: tuple[int, int], stride: int, *, fixed: bool, what: str) -> ServedSize:
    """The size of images that an encoder asks for, and its patch size at that size.

    A network of any size whose own is no multiple of its stride, such as EfficientNet-B1 (240, stride 32), is served at
    the next larger multiple. One of a fixed size keeps it, and its patch size is that of the map it gives.

    Raises:
        UserError: a fixed size that no map divides evenly.
    """
    if not any(side % stride for side in size):
        return ServedSize(size, stride)
    if not fixed:
        height, width = (-(-side // stride) * stride for side in size)
        made = f"made for {size[0]} x {size[1]}, no multiple of its stride of {stride}"
        return ServedSize((height, width), stride, f"{made}; served at {height} x {width}")
    cells = -(-size[0] // stride)
    patch = size[0] // cells
    if size[0] != size[1] or patch * cells != size[0]:
        raise UserError(
            f"{what} takes images of {size[0]} x {size[1]} only, which its map of stride {stride} does not divide; "
            "use another model."
        )
    return ServedSize(size, patch, f"its map of stride {stride} has {cells} x {cells} cells: patch size {patch}")


def _over_channels(norm: nn.Module, maps: Tensor) -> Tensor:
    """A norm over the channels of maps (B, D, h, w)."""
    if isinstance(norm, nn.Identity):
        return maps
    channels_first = "2d" in type(norm).__name__
    normed: Tensor = norm.forward(maps) if channels_first else norm(maps.movedim(1, -1)).movedim(-1, 1)
    return normed


def _described(thing: object) -> str:
    if isinstance(thing, Tensor):
        return f"a tensor of shape {tuple(thing.shape)}"
    return f"{len(thing)} tensors" if isinstance(thing, tuple | list) else f"a {type(thing).__name__}"
