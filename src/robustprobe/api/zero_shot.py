"""`robustprobe.zero_shot`: a classifier of an encoder and text embeddings given as a file; nothing is fitted."""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from robustprobe.api.inputs import as_encoder
from robustprobe.core.arguments import checked_types
from robustprobe.core.device import find_device
from robustprobe.core.errors import UserError
from robustprobe.core.types import LabelSpace
from robustprobe.core.usual_mode import usual_mode
from robustprobe.core.views import Resized
from robustprobe.encoders import Encoder
from robustprobe.tasks import Model, load_task
from robustprobe.tasks.classification import ZeroShotHead

TASK = ZeroShotHead.task
SCALE = 100.0
EXPECTED = "a safetensors file with a tensor 'text' (classes, width) and metadata 'classes', a JSON list of their names"


class _Texts(NamedTuple):
    classes: tuple[str, ...]
    tensors: dict[str, Tensor]


@checked_types("encoder", "device", texts=EXPECTED)
@usual_mode()
def zero_shot(encoder: Encoder | str, texts: str | Path, *, device: str = "auto") -> Model:
    """A zero-shot classifier: logits are `scale` times the cosine of the projected class token and each text, + `bias`.

    Args:
        encoder: an encoder or its name, such as the image tower of a CLIP model. It moves to `device`.
        texts: a safetensors file with the tensor `text` (C, D), a row for each class, and the names of the classes as a
            JSON list in the metadata `classes`. Optional tensors: `projection` (D, width of the class token), `scale`
            (one number, 100 by default; of CLIP the exponential of its `logit_scale`) and `bias` (one number).
        device: `auto` is CUDA where it is available, else the CPU.

    Raises:
        UserError: an unknown encoder, or a file that is missing, holds something else or does not fit the encoder.

    Example:
        >>> import robustprobe as rp
        >>> import torch
        >>> from safetensors.torch import save_file
        >>> encoder = rp.load_encoder("bundled:photos")
        >>> texts = {"text": torch.randn(2, encoder.card.widths.cls)}
        >>> save_file(texts, "texts.safetensors", metadata={"classes": '["cat", "dog"]'})
        >>> model = rp.zero_shot(encoder, "texts.safetensors")
        >>> logits = model(images)  # (B, 3, H, W) in [0, 1] to (B, C)
    """
    encoder, found = as_encoder(encoder, "zero_shot"), _read(Path(texts))
    text, projection = found.tensors["text"], found.tensors.get("projection")
    _check_widths(encoder, text, projection)
    scale, bias = (found.tensors.get(name, torch.tensor(usual)) for name, usual in (("scale", SCALE), ("bias", 0.0)))
    head = ZeroShotHead(text, projection, float(scale), float(bias)).eval()
    where = find_device(device)
    task = load_task(TASK, LabelSpace(classes=found.classes))
    return Model(encoder.to(where), head.to(where), task, Resized(size=encoder.card.input_size)).eval()


def _read(path: Path) -> _Texts:
    """What a file of text embeddings holds. Raises UserError where it is missing or makes no sense."""
    try:
        with safe_open(path, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118
            classes = json.loads((stored.metadata() or {})["classes"])
    except FileNotFoundError as error:
        raise UserError(f"no file {path}; expected {EXPECTED}.") from error
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} cannot be used ({error}); expected {EXPECTED}.") from error
    if wrong := _fault(classes, tensors):
        raise UserError(f"{path} has {wrong}; expected {EXPECTED}.")
    return _Texts(tuple(classes), tensors)


def _fault(classes: object, tensors: dict[str, Tensor]) -> str:
    """What is wrong with the content of a file, in words; empty where it makes sense."""
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        return f"classes that are a {type(classes).__name__}, or not all names"
    if unknown := sorted(set(tensors) - {"text", "projection", "scale", "bias"}):
        return f"the unknown tensor '{unknown[0]}'"
    if "text" not in tensors or tensors["text"].ndim != 2 or len(tensors["text"]) != len(classes):
        shape = tuple(tensors["text"].shape) if "text" in tensors else "none"
        return f"text embeddings of shape {shape} for {len(classes)} classes"
    if len(set(classes)) != len(classes) or len(classes) < 2:
        return f"{len(classes)} classes with {len(set(classes))} names"
    if numbers := [name for name in ("scale", "bias") if name in tensors and tensors[name].numel() != 1]:
        return f"a {numbers[0]} of shape {tuple(tensors[numbers[0]].shape)}, not one number"
    broken = next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), "")
    return f"NaN or infinity in '{broken}'" if broken else ""


def _check_widths(encoder: Encoder, text: Tensor, projection: Tensor | None) -> None:
    """Raises UserError where class token, projection and texts do not fit each other."""
    width = encoder.card.widths.cls
    shape = None if projection is None else tuple(projection.shape)
    if shape not in (None, (text.shape[1], width)) or (shape is None and text.shape[1] != width):
        raise UserError(
            f"the class token of {encoder.card.name} has {width} channels, the texts have {text.shape[1]} and the "
            f"projection is {shape}; expected a projection ({text.shape[1]}, {width}). Give that of this encoder."
        )
