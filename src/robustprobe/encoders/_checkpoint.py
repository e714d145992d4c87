"""Encoders from a checkpoint file and the name of its architecture."""

import argparse
import pickle  # for its exception only
import sys
import zipfile
from collections.abc import Iterable, Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import get_pretrained_cfg
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from robustprobe.core.arguments import came
from robustprobe.core.errors import UserError, unknown_name
from robustprobe.encoders._file_kinds import folder_hint, is_shard, unsafe_classes, weights_format
from robustprobe.encoders._keys import find_prefix, flatten, hint, match, unwrapped
from robustprobe.encoders._layouts import converted, named_children
from robustprobe.encoders._meant import published_names, unknown_tag
from robustprobe.encoders._norms import NORMS, named_norm
from robustprobe.encoders._timm import Norm, create, create_at, wrap
from robustprobe.encoders.base import SHORT_NAMES, Encoder

OPTIONS = ("arch", "branch", "norm")
_OFFICIAL_FIRST_WEIGHTS = {
    "ConvNeXt": ["downsample_layers.0.0.weight"],
    "EfficientNet": ["_conv_stem.weight"],
    "VisionTransformer": ["ln_pre.weight"],
}


def load_checkpoint(path: Path, spec: str, options: Mapping[str, str]) -> Encoder:
    """The encoder whose weights are in a checkpoint file.

    Args:
        path: a `.safetensors` file, or one that `torch.load` reads without running code.
        spec: the encoder's name.
        options: `arch`, a timm name or a short one; `branch`, which of several encoders in the file; `norm`, one of
            `NORMS`, by default the normalisation of the architecture's published weights.

    Raises:
        UserError: unreadable file, unknown architecture, or any key of the encoder that is not matched.
    """
    if "arch" not in options:
        raise UserError(f"{spec} is a checkpoint; name its architecture, as in file:{path}?arch=dino_vitb16.")
    name = architecture_name(options["arch"])
    norm = _norm(name, options)
    try:
        return _fitted(path, spec, options, name, norm)
    except UserError:
        raise
    except Exception as error:
        # Tensors of a damaged or malicious file can make torch raise any exception.
        raise UserError(
            f"{path} cannot be used as {options['arch']}: {type(error).__name__}: {error}. Name the architecture it "
            "was trained with, or download it again."
        ) from error


def _fitted(path: Path, spec: str, options: Mapping[str, str], name: str, norm: Norm | None) -> Encoder:
    """The encoder of that architecture with the weights of a file; every key of the encoder is matched."""
    content = read_tensors(path)
    tensors = flatten(content)
    if not tensors or not isinstance(content, Mapping):
        raise UserError(
            f"{path} holds {_without_tensors(content)}, so it has no weights of this architecture. Give a file with a "
            "state dict: names and tensors."
        )
    check_stored(tensors, path)
    model = create(name)
    tensors = named_children(tensors, model)
    anchors = _anchors(model, tensors)
    prefix, note = find_prefix(tensors, anchors, branch=options.get("branch", ""), source=str(path))
    inside = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    inside, layout = converted(unwrapped(inside), model)
    if isinstance(model, VisionTransformer):
        model = _at_size_of(model, name, inside)
    inside = _to_timm(model, inside, path)
    outside = [n for n in tensors if not n.startswith(prefix)]
    report = match(model.state_dict(), inside, prefix=prefix, outside=outside, layout=layout, note=note)
    if not report.complete:
        remedy = hint(tensors) or "Name the architecture it was trained with."
        part = " It is one of the shards of a checkpoint; give a file with all of it." if is_shard(path) else ""
        raise UserError(f"{path} does not fit {options['arch']}: {report}. {remedy}{part}")
    check_values({n: t for n, t in inside.items() if n in model.state_dict()}, model.state_dict(), path)
    model.load_state_dict({**model.state_dict(), **{n: inside[n] for n in model.state_dict() if n in inside}})
    return wrap(spec, model, source="file", notes=str(report), norm=norm)


def read_tensors(path: Path) -> Any:
    """The content of a checkpoint file, read without running its code.

    Raises:
        UserError: no such file, not a checkpoint, or one that cannot be read without running its code.
    """
    if not path.is_file():
        what = f"{path} is a folder, not a checkpoint" if path.is_dir() else f"no file {path}"
        raise UserError(
            f"{what}; give a checkpoint, or a folder with card.json and encoder.safetensors.{folder_hint(path)}"
        )
    kind = weights_format(path)
    try:
        if kind == "safetensors":
            return load_file(path)
        check_not_swelling(path)
        # Of a path torch would look at its ending.
        with path.open("rb") as file, torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}. Download it again.") from error
    except pickle.UnpicklingError as error:
        classes = unsafe_classes(path)
        shown = f"objects of {', '.join(classes[:4])}{', ...' if len(classes) > 4 else ''}" if classes else "objects"
        raise UserError(
            f"{path} holds more than weights ({shown}), and robustprobe runs no code of a file. If you trust it, read "
            "it yourself with torch.load(..., weights_only=False) and write its state dict with "
            "safetensors.torch.save_file; then give that file."
        ) from error
    except UserError:
        raise
    except Exception as error:
        # For bytes that are not a checkpoint torch raises various exceptions.
        said = str(error).strip().split(chr(10))[0]
        raise UserError(
            f"{path} cannot be read as a checkpoint: {type(error).__name__}: {said}. Download it again."
        ) from error


def check_not_swelling(path: Path) -> None:
    """Raises UserError for a compressed checkpoint: torch writes none, and a small one could fill the memory."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if any(m.compress_type != zipfile.ZIP_STORED or m.file_size > path.stat().st_size for m in archive.infolist()):
            raise UserError(
                f"{path} is a compressed archive, which torch.save does not write. Unpack it, or save it again."
            )


def check_stored(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raises UserError for tensors that are not plain arrays, or that declare more values than the file holds."""
    for name, tensor in tensors.items():
        if tensor.is_quantized:
            raise UserError(f"{path} holds {name} quantised ({tensor.dtype}); give the weights before quantisation.")
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UserError(f"{path} holds {name} not as a plain array; expected weights as torch.save writes them.")


def check_values(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> None:
    """Raises UserError for weights that no training leaves: NaN, infinity, zeros only, or whole numbers in place of
    real ones.
    """
    if weights and not any(bool(tensor.any()) for tensor in weights.values()):
        raise UserError(f"{path} holds zeros only, as where weights were never loaded before saving. Save it again.")
    for name, tensor in weights.items():
        if own[name].is_floating_point() and not tensor.is_floating_point():
            raise UserError(
                f"{path} holds {name} as {tensor.dtype}, where {own[name].dtype} is expected: quantised weights "
                "without their scales. Give the weights before quantisation."
            )
        # Types of 8 bits have no such test.
        wide = tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor
        if not torch.isfinite(wide).all():
            count = int((~torch.isfinite(wide)).sum())
            raise UserError(
                f"{path} holds NaN or infinity in {name} ({count:,} of {tensor.numel():,} values): the training that "
                "wrote it diverged, or the file is damaged. Take an earlier checkpoint."
            )


def _without_tensors(content: object) -> str:
    if not isinstance(content, Mapping):
        parts = content if isinstance(content, list | tuple) else ()
        inside = any(isinstance(part, Mapping) and flatten(part) for part in parts)
        return f"{came(content)} and no dictionary{' (a part of it is one with weights)' if inside else ''}"
    names = ", ".join(str(key) for key in list(content)[:4])
    return f"a dictionary of {names} without one tensor" if names else "an empty dictionary"


def architecture_name(name: str) -> str:
    """The timm name of an architecture, with the tag of its configuration; short names are understood.

    Raises:
        UserError: timm has no such architecture or tag.
    """
    name = SHORT_NAMES.get(name, name).removeprefix("timm:")
    if name.partition(".")[0] not in timm.list_models():
        raise unknown_name("architecture", name, [*SHORT_NAMES, *timm.list_models()], published_names(name))
    try:
        get_pretrained_cfg(name)
    except RuntimeError as error:
        architecture, _, tag = name.partition(".")
        raise unknown_tag(architecture, tag) from error
    return name


def _norm(name: str, options: Mapping[str, str]) -> Norm | None:
    """The normalisation that the options name; None for the architecture's own."""
    if "norm" in options:
        return named_norm(options["norm"])
    if "." not in name:
        published = timm.list_pretrained(f"{name}.*")
        means = {get_pretrained_cfg(n).mean for n in published}
        if len(means) > 1:
            raise UserError(
                f"weights of {name} were published with several normalisations of the image, and the file does not "
                f"say which. Add &norm={'|'.join(NORMS)} (imagenet for DINO, MAE, MoCo v3 and iBOT), or a tag to "
                f"the architecture, such as {published[0]}."
            )
    return None


def _at_size_of(model: VisionTransformer, name: str, state: Mapping[str, Tensor]) -> Any:
    """The model at the image size of the position embeddings in the file, so that they are not resampled twice."""
    if "pos_embed" not in state or state["pos_embed"].ndim != 3 or model.pos_embed is None:
        return model
    prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    tokens = state["pos_embed"].shape[1] - prefix
    side = isqrt(max(tokens, 0))
    if side == 0 or side**2 != tokens or state["pos_embed"].shape[1] == model.pos_embed.shape[1]:
        return model
    return create_at(name, side * model.patch_embed.patch_size[0])


def _to_timm(model: Any, state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Weights with official names, converted to timm's if timm can; shapes are checked first, as timm resamples."""
    own = model.state_dict()
    translate = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    wrong = any(n in own and own[n].shape != t.shape for n, t in state.items())
    if translate is None or wrong or isinstance(model, VisionTransformer):
        return state
    try:
        translated: dict[str, Tensor] = translate(dict(state), model)
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(f"{path} has weights of another architecture: {error}. Name the right one.") from error
    kept = {t.untyped_storage().data_ptr() for t in translated.values()}
    # Weights that timm drops are returned, so that they are reported; not zero biases, which some models lack.
    dropped = {n: t for n, t in state.items() if n not in translated and t.untyped_storage().data_ptr() not in kept}
    return translated | {n: t for n, t in dropped.items() if not n.endswith("bias") or t.any()}


def _anchors(model: Any, names: Iterable[str]) -> list[str]:
    """Keys of which every such encoder has one; of a file that lacks them but has others, one of these."""
    known = list(dict.fromkeys([_first_weight(model), *_official_first_weights(model)]))
    endings = {".".join(parts[start:]) for n in names for parts in [n.split(".")] for start in range(len(parts))}
    own = [name for name in model.state_dict() if "." in name]
    there = [name for name in own if name in endings]
    return known if endings & set(known) or len(there) < len(own) / 4 else there[:1]


def _first_weight(model: Any) -> str:
    return str(next(n for n in model.state_dict() if n.endswith("weight")))


def _official_first_weights(model: Any) -> list[str]:
    """Names that a family has once in its official code, near its start."""
    return _OFFICIAL_FIRST_WEIGHTS.get(type(model).__name__, [])
