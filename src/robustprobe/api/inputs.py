"""What people hand in, as the rest of the package takes it: numbers, images, labels and names."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from robustprobe.api.own_models import check_weights
from robustprobe.core.arguments import came, plain
from robustprobe.core.errors import UserError
from robustprobe.encoders import Encoder, load_encoder

IMAGES = "a floating-point tensor or array (B, 3, H, W) in [0, 1]"
EXPECTED = {"targets": "a class for each image, or a map (B, H, W) or (B, C, H, W)"}
"""What is expected of anything that is not images."""
HOLDS_DATASETS = "the folder that holds the datasets, as a path"
"""What is wanted of `root`, for messages."""


def only(value: Any, what: str) -> Any:
    """The value itself, or the only one of a list. Raises UserError for a list of several.

    Args:
        what: what it is, for the message.
    """
    value = plain(value)
    if not isinstance(value, list | tuple | np.ndarray | Tensor):
        return value
    if len(value) == 1:
        return only(value[0], what)
    raise UserError(f"{what} is a list of {len(value)}; give one. Call it once for each, or use robustprobe.evaluate.")


def as_encoder(given: Any, caller: str) -> Encoder:
    """A frozen encoder, of itself or its name.

    Args:
        caller: the function that takes it, for the message.

    Raises:
        UserError: anything else, or weights that were made in inference mode.
    """
    if isinstance(given, str):
        return load_encoder(given)
    if not isinstance(given, Encoder):
        network = isinstance(given, nn.Module)
        hint = (
            "wrap it: robustprobe.wrap(network, mean=..., std=...)" if network else "give one, such as bundled:photos"
        )
        raise UserError(f"{caller} takes an encoder or its name, not {came(given)}; {hint}.")
    check_weights(given)
    return given.freeze_again()


def as_size(given: Any) -> Any:
    """(H, W) of one number or of two; None as it is. Raises UserError for anything else."""
    given = plain(given)
    if given is None:
        return None
    if isinstance(given, list | tuple | np.ndarray | Tensor) and len(given) == 2:
        return tuple(plain(side) for side in given)
    if not isinstance(given, int):
        raise UserError(f"size is {given!r}; give one number of pixels, or two as (H, W).")
    return (given, given)


def as_images(given: Any, what: str = "images") -> Tensor:
    """Images as a tensor of their own type, without history: a tensor, an array, or a list of them of one size.

    Raises:
        UserError: anything else, images of several sizes, or a tensor without values.
    """
    images = _tensor(given, what)
    if images.is_meta or images.layout != torch.strided or images.is_nested:
        stored = "a nested tensor" if images.is_nested else f"stored as {images.layout}"
        kind = "on the device meta, which holds no values" if images.is_meta else stored
        raise UserError(f"{what} are {kind}; expected {IMAGES}.")
    # Of a plain type: torchvision's and others' change what operations mean.
    images = images.detach().as_subclass(Tensor)
    # A tensor made in inference mode cannot take part in gradients; its copy can.
    return images.clone() if images.is_inference() else images


def _tensor(given: Any, what: str) -> Tensor:
    if isinstance(given, Tensor):
        return given
    expected = EXPECTED.get(what, f"{IMAGES}, or a list of such images")
    if hasattr(given, "__array__") and not isinstance(given, Image.Image | np.ndarray | type):
        given = np.asarray(given)
    if not isinstance(given, np.ndarray | list | tuple):
        raise UserError(f"{what} are a {type(given).__name__}; expected {expected}.{_from_pictures(given, what)}")
    parts = [] if isinstance(given, np.ndarray) else list(given)
    if what not in EXPECTED and any(isinstance(part, Image.Image) for part in parts):
        raise UserError(f"{what} are a list of PIL images; expected {expected}.{_from_pictures(parts, what)}")
    shapes = {tuple(part.shape) for part in parts if isinstance(part, np.ndarray | Tensor)}
    if len(shapes) > 1:
        raise UserError(f"{what} have several sizes, such as {sorted(shapes)[:2]}; resize them to one.")
    try:
        if parts and all(isinstance(part, Tensor) for part in parts):
            return torch.stack([cast(Tensor, part).detach() for part in parts])
        array = np.asarray(given)
        # Python's numbers and NumPy's default are float64 by no one's choice.
        kind = np.dtype(np.float32) if array.dtype == np.float64 else array.dtype.newbyteorder("=")
        return torch.tensor(array.astype(kind, order="C"))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{what} cannot be read as numbers: {error}. Expected {expected}.") from error


def _from_pictures(given: Any, what: str) -> str:
    """What to write in place of one PIL image, or of a list of them; nothing for anything else."""
    if what in EXPECTED or not isinstance(given, Image.Image | list):
        return ""
    code = "to_tensor(image)[None]" if isinstance(given, Image.Image) else "torch.stack([to_tensor(i) for i in images])"
    return f" Write {code}, with torchvision.transforms.functional.to_tensor."


def as_labels(given: Any) -> Tensor | None:
    """Labels as a tensor: a tensor, an array, a list, or one number for one image.

    Raises:
        UserError: no numbers, or label maps of several sizes.
    """
    if given is None:
        return None
    if isinstance(given, int | float | np.generic):
        given = np.asarray([given])
    labels = _tensor(given, "targets")
    labels = labels[None] if labels.ndim == 0 else labels
    return labels.detach().clone() if labels.is_inference() else labels.detach()


def as_ids(given: Any, count: int) -> list[str]:
    """Names of `count` images as text: of whole numbers, paths or text; by default their places in the batch.

    Raises:
        UserError: another number of names, or one name as text for several images.
    """
    if given is None:
        return [str(index) for index in range(count)]
    given = plain(given)
    one = isinstance(given, str) or not hasattr(given, "__iter__")
    names = [given] if one else [plain(name) for name in given]
    if len(names) != count:
        raise UserError(f"{len(names)} ids for {count} images; give one id per image, or none.")
    if any(name is None for name in names):
        raise UserError("an id is None; give each image a name or a number, or leave ids out.")
    return [str(name) for name in names]


def check_layout(images: Tensor) -> None:
    """Raises UserError for one image without a batch, and for channels that come last."""
    shape: Sequence[int] = tuple(images.shape)
    if len(shape) == 3:
        raise UserError(f"images have shape {shape}; expected {IMAGES}. For one image write images[None].")
    turned = "permute(0, 3, 1, 2)" + (" / 255" if images.dtype == torch.uint8 else "")
    if len(shape) == 4 and shape[1] > 4 and shape[3] in (1, 3, 4):
        raise UserError(
            f"images have shape {shape}: their channels seem to be last; expected {IMAGES}. Write images.{turned}."
        )
