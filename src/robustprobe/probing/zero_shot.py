"""Zero-shot heads: text embeddings, from a file or the encoder's own text tower, in place of a fitted head."""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from robustprobe.core.errors import UserError
from robustprobe.core.head_spec import PLACE, HeadSpec, TextsFile
from robustprobe.datasets import Dataset
from robustprobe.encoders import Encoder, TextTower
from robustprobe.probing.fit import Fitted
from robustprobe.tasks.classification import ZeroShotHead

TASK = ZeroShotHead.task
SCALE = 100.0
EXPECTED = "a safetensors file with a tensor 'text' (classes, width) and metadata 'classes', a JSON list of their names"
MOST_NAMED = 3
CODE = re.compile(r"[\W_]*|(?:class)?[\W_]*\d+|n\d{8}", re.IGNORECASE)
"""What is no name of a class: blanks, numbers, and identifiers of WordNet as ImageNet's folders have them."""


class Texts(NamedTuple):
    """Text embeddings of classes, with what projects and scales them, and the SHA-256 of their file."""

    classes: tuple[str, ...]
    tensors: dict[str, Tensor]
    sha256: str


def read_texts(path: Path) -> Texts:
    """What a file of text embeddings holds. Raises UserError where it is missing or makes no sense."""
    try:
        content = path.read_bytes()
        tensors = {name: tensor.float() for name, tensor in load(content).items()}
        length = int.from_bytes(content[:8], "little")
        classes = json.loads(json.loads(content[8 : 8 + length]).get("__metadata__", {})["classes"])
    except FileNotFoundError as error:
        raise UserError(f"no file {path}; expected {EXPECTED}.") from error
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} cannot be used ({error}); expected {EXPECTED}.") from error
    if wrong := _fault(classes, tensors):
        raise UserError(f"{path} has {wrong}; expected {EXPECTED}.")
    return Texts(tuple(classes), tensors, hashlib.sha256(content).hexdigest())


def head_of_texts(encoder: Encoder, texts: Texts) -> ZeroShotHead:
    """The head that texts are for an encoder. Raises UserError where their widths do not fit each other."""
    text, projection = texts.tensors["text"], texts.tensors.get("projection")
    _check_widths(encoder, text, projection)
    usual = {"scale": torch.tensor(SCALE), "bias": torch.tensor(0.0)}
    scale, bias = (float(texts.tensors.get(name, number)) for name, number in usual.items())
    return ZeroShotHead(text, projection, scale, bias).eval()


def head_of_templates(tower: TextTower, templates: Sequence[str], classes: Sequence[str]) -> ZeroShotHead:
    """The head of classes whose names stand in templates: the mean of their normalised embeddings, as in CLIP.

    Of Radford et al. (2021, section 3.1.4). Underscores in names become blanks.

    Raises:
        UserError: names that are numbers or codes, or a tokenizer that reads two texts alike.
    """
    names = [" ".join(name.replace("_", " ").split()) for name in classes]
    rows = [F.normalize(tower.embed([one.replace(PLACE, name) for name in names]), dim=1) for one in templates]
    return ZeroShotHead(torch.stack(rows).mean(0), tower.projection, tower.scale, tower.bias, tower.pool).eval()


def check_names(classes: Sequence[str], name: str) -> None:
    """Raises UserError where a dataset's classes have no names that a text could be made of."""
    codes = [one for one in classes if CODE.fullmatch(one)]
    if 2 * len(codes) >= len(classes):
        said = f"its classes are {_named(codes)}" if codes else "it lists none"
        raise UserError(
            f"{name} has no names of classes for the templates of a zero-shot head: {said}. Name the classes (folders, "
            "or classes.txt), or give a safetensors file of text embeddings."
        )


def with_digest(spec: HeadSpec) -> HeadSpec:
    """The same heads with the SHA-256 of their file of texts or of their templates, so that they stay those.

    Raises:
        UserError: the file is missing, makes no sense or is another one than `spec` says.
    """
    if spec.zero_shot is None:
        return spec
    given = spec.zero_shot
    sha256 = hashlib.sha256(given.file.encode()).hexdigest() if given.templates else _texts(given).sha256
    return spec.model_copy(update={"zero_shot": TextsFile(file=given.file, sha256=sha256)})


def texts_digest(encoder: Encoder, spec: HeadSpec) -> str:
    """What names the text tower that a zero-shot head needs; empty where it needs none.

    Raises:
        UserError: the encoder has none.
    """
    return encoder.text_tower().digest if spec.zero_shot is not None and spec.zero_shot.templates else ""


def fitted_of_texts(encoder: Encoder, file: TextsFile, data: Dataset) -> Fitted:
    """The zero-shot head of an encoder for the classes of a dataset, in its order of classes.

    Raises:
        UserError: the file is another one than it was, or has other classes or widths; or of templates, the encoder has
            no text tower, or the classes have no names.
    """
    classes = data.spaces[TASK].classes
    if file.templates:
        check_names(classes, data.name)
        made = head_of_templates(encoder.text_tower(), file.templates, classes)
        return Fitted(made.requires_grad_(False), 0.0, math.nan)
    texts = _texts(file)
    if sorted(texts.classes) != sorted(classes):
        raise UserError(
            f"{file.file} has texts for {len(texts.classes)} classes ({_named(texts.classes)}), which are not the "
            f"{len(classes)} of {data.name}: {_difference(texts.classes, classes)}. Expected one text for each class "
            "of the dataset under its name there; correct the names in the metadata 'classes', or choose the dataset "
            "that the texts are for."
        )
    order = [texts.classes.index(name) for name in classes]
    ordered = texts._replace(tensors={**texts.tensors, "text": texts.tensors["text"][order]})
    head = head_of_texts(encoder, ordered).requires_grad_(False)
    return Fitted(head, 0.0, math.nan)


def _texts(file: TextsFile) -> Texts:
    texts = read_texts(Path(file.file))
    if file.sha256 not in ("", texts.sha256):
        raise UserError(
            f"{file.file} has the SHA-256 {texts.sha256[:12]}, and expected is {file.sha256[:12]}: it is another file "
            "or has changed. Give the file that was meant, or run the command again with this one."
        )
    return texts


def _difference(given: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    lacking = [name for name in wanted if name not in given]
    beside = [name for name in given if name not in wanted]
    parts = [f"{word} {_named(names)}" for word, names in (("it lacks", lacking), ("it has", beside)) if names]
    return " and ".join(parts) or "a name occurs several times in the dataset"


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:MOST_NAMED])
    return shown if len(names) <= MOST_NAMED else f"{shown} and {len(names) - MOST_NAMED} more"


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
    return f"NaN or infinity in '{broken}'" if broken else _nothing(classes, tensors)


def _nothing(classes: Sequence[str], tensors: dict[str, Tensor]) -> str:
    """What makes all images alike or turns the order of classes round, in words; empty where there is nothing."""
    empty = [name for name, row in zip(classes, tensors["text"], strict=True) if not row.any()]
    if empty:
        return f"text embeddings of zeros for {_named(empty)}"
    if "projection" in tensors and not tensors["projection"].any():
        return "a projection of zeros"
    scale = float(tensors.get("scale", torch.tensor(SCALE)))
    return f"a scale of {scale:g}, which is not above 0" if scale <= 0 else ""


def _check_widths(encoder: Encoder, text: Tensor, projection: Tensor | None) -> None:
    """Raises UserError where class token, projection and texts do not fit each other."""
    width = encoder.card.widths.cls
    shape = None if projection is None else tuple(projection.shape)
    if shape not in (None, (text.shape[1], width)) or (shape is None and text.shape[1] != width):
        raise UserError(
            f"the class token of {encoder.card.name} has {width} channels, the texts have {text.shape[1]} and the "
            f"projection is {shape}; expected a projection ({text.shape[1]}, {width}). Give that of this encoder."
        )
