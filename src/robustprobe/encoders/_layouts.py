"""Names of weights in the code they were trained with, converted to timm's."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import timm
from timm.layers import Conv2dSame, QuickGELU
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from robustprobe.core.errors import UserError

WITHOUT_QUICK_GELU = "with GELU; OpenAI's weights, FARE and TeCoA need an architecture with quickgelu in its name"


class Converted(NamedTuple):
    """Weights under timm's names, and the code whose names they had; empty where they had timm's already."""

    state: dict[str, Tensor]
    layout: str = ""


def converted(state: Mapping[str, Tensor], model: Any) -> Converted:
    """Weights under the names of timm's model, from those of the code they were trained with.

    Raises:
        UserError: weights of a network that computes something else, though all shapes fit.
    """
    if isinstance(model, VisionTransformer):
        return transformer_names(state, model)
    return efficientnet_pytorch_names(state, model)


_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_LAST_CHILD = "7.0.conv1.weight"


def named_children(tensors: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Weights of a ResNet that was trained as `nn.Sequential(*resnet.children())`, as in lightly and Lightning Bolts,
    with the names of its parts in place of their numbers; others as they are.
    """
    if type(model).__name__ != "ResNet":
        return dict(tensors)
    before = {n.removesuffix(_LAST_CHILD) for n in tensors if n.endswith(f".{_LAST_CHILD}") or n == _LAST_CHILD}
    prefixes = sorted(p for p in before if f"{p}0.weight" in tensors and f"{p}4.0.conv1.weight" in tensors)

    def named(name: str) -> str:
        prefix = next((p for p in prefixes if name.startswith(p)), None)
        if prefix is None:
            return name
        number, dot, rest = name.removeprefix(prefix).partition(".")
        return f"{prefix}{_CHILDREN.get(number, number)}{dot}{rest}"

    return {named(n): t for n, t in tensors.items()}


def transformer_names(state: Mapping[str, Tensor], model: VisionTransformer) -> Converted:
    """Weights of a vision transformer under timm's names, from those of DINOv2's code and of open_clip and CLIP."""
    if "class_embedding" in state and "conv1.weight" in state:
        quick = any(isinstance(m, QuickGELU) for m in model.modules())
        names = "open_clip (with QuickGELU)" if quick else f"open_clip ({WITHOUT_QUICK_GELU})"
        return Converted({_clip_name(n): _clip_shape(n, t) for n, t in state.items()}, names)
    state, chunked = unchunked(state)
    registers = getattr(model, "reg_token", None) is not None
    return Converted(dinov2_names(state, registers), "DINOv2 in chunks of blocks" if chunked else "")


def dinov2_names(state: Mapping[str, Tensor], registers: bool) -> dict[str, Tensor]:
    """Weights with the names of DINOv2's code, converted to those of timm.

    Renames the registers and the two matrices of SwiGLU; for a model with registers, adds the class token's position
    embedding to the class token, because timm then has position embeddings of patches alone.
    """
    state = {n.replace("mlp.w12.", "mlp.fc1.").replace("mlp.w3.", "mlp.fc2."): t for n, t in state.items()}
    if registers and "register_tokens" in state and {"cls_token", "pos_embed"} <= state.keys():
        state["reg_token"] = state.pop("register_tokens")
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]
    return state


def unchunked(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """Weights whose blocks are in chunks, `blocks.CHUNK.NUMBER.`, as `blocks.NUMBER.`; and whether there were any.

    DINOv2's code numbers blocks through all chunks; where numbers repeat, they are counted within each chunk.
    """
    places = sorted({(int(m[1]), int(m[2])) for n in state if (m := _CHUNKED.match(n))})
    through = len({number for _, number in places}) == len(places)
    numbers = {place: place[1] if through else position for position, place in enumerate(places)}

    def plain(name: str) -> str:
        m = _CHUNKED.match(name)
        return f"blocks.{numbers[int(m[1]), int(m[2])]}.{name[m.end() :]}" if m else name

    return {plain(n): t for n, t in state.items()}, bool(places)


_CHUNKED = re.compile(r"blocks\.(\d+)\.(\d+)\.")
_CLIP_OUTSIDE = {
    **{"class_embedding": "cls_token", "positional_embedding": "pos_embed", "conv1.weight": "patch_embed.proj.weight"},
    "proj": "proj",
}
_CLIP_PARTS = {
    **{"transformer.resblocks.": "blocks.", "ln_pre.": "norm_pre.", "ln_post.": "norm.", "ln_1.": "norm1."},
    **{"ln_2.": "norm2.", "attn.in_proj_": "attn.qkv.", "attn.out_proj.": "attn.proj.", "mlp.c_fc.": "mlp.fc1."},
    "mlp.c_proj.": "mlp.fc2.",
}


def _clip_name(name: str) -> str:
    if name in _CLIP_OUTSIDE:
        return _CLIP_OUTSIDE[name]
    for theirs, ours in _CLIP_PARTS.items():
        name = name.replace(theirs, ours)
    return name


def _clip_shape(name: str, tensor: Tensor) -> Tensor:
    if name == "class_embedding":
        return tensor[None, None]
    return tensor[None] if name == "positional_embedding" else tensor


_EFFICIENTNET_OUTSIDE = {
    **{"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
}
_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
_EXPANDED = {
    **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
    **{"_project_conv": "conv_pwl", "_bn2": "bn3", **_SQUEEZE},
}
_SEPARABLE = {
    **{"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2", **_SQUEEZE},
}


def efficientnet_pytorch_names(state: Mapping[str, Tensor], model: Any) -> Converted:
    """Weights with the names of EfficientNet-PyTorch, of which EfficientNet-Lite-PyTorch is a copy, as those of timm.

    Its blocks are numbered through, and timm's by stage. Names that it has not are kept, so that they are reported.

    Raises:
        UserError: a model that pads as PyTorch does. Those weights are for TensorFlow's padding, and the shapes of
            their tensors do not show it.
    """
    if "_conv_stem.weight" not in state:
        return Converted(dict(state))
    if not isinstance(getattr(model, "conv_stem", None), Conv2dSame):
        name = str(model.pretrained_cfg.get("architecture", ""))
        right = f"tf_{name}" if f"tf_{name}" in timm.list_models() else "timm's architecture that starts with tf_"
        raise UserError(
            f"these are weights of EfficientNet-PyTorch, whose network pads images as TensorFlow does and {name} does "
            f"not: features would be others than the authors'. Give arch={right}."
        )
    places = [f"blocks.{s}.{b}" for s, stage in enumerate(model.blocks) for b in range(len(stage))]
    expanded = {n.split(".")[1] for n in state if n.startswith("_blocks.") and n.split(".")[2] == "_expand_conv"}
    return Converted(
        {_efficientnet_name(n, places, expanded): t for n, t in state.items()},
        "EfficientNet-PyTorch",
    )


def _efficientnet_name(name: str, places: list[str], expanded: set[str]) -> str:
    first, *rest = name.split(".")
    if first in _EFFICIENTNET_OUTSIDE:
        return ".".join([_EFFICIENTNET_OUTSIDE[first], *rest])
    if first != "_blocks" or not rest[0].isdecimal() or int(rest[0]) >= len(places):
        return name
    number, layer, *last = rest
    known = _EXPANDED if number in expanded else _SEPARABLE
    return ".".join([places[int(number)], known.get(layer, layer), *last])
