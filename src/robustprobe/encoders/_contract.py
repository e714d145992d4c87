"""What the features of an encoder must be, checked where they are made; each fault is one message."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from robustprobe.core.device import out_of_memory
from robustprobe.core.errors import UserError
from robustprobe.core.types import FeatureDims, Features

WANTED = "robustprobe.Features(cls, patches) with cls (B, D) and patches (B, D, h, w)"


def checked_features(found: object, images: Tensor, name: str, patch: int, widths: FeatureDims) -> Features:
    """Features of `images` in their type, where they are what the card of the encoder `name` says.

    Raises:
        UserError: no `Features` of tensors, another shape or layout, whole numbers, another device, or no gradient
            where images ask for one.
    """
    features = _typed(found, name)
    _check_shapes(features, images, name, patch, widths)
    for part, values in features._asdict().items():
        if not values.is_floating_point():
            raise UserError(f"{name}: {part} has type {values.dtype}; features are floating point.")
        if values.device != images.device:
            raise UserError(f"{name}: {part} is on {values.device}, images on {images.device}; keep them together.")
        if images.requires_grad and torch.is_grad_enabled() and not values.requires_grad:
            raise UserError(
                f"{name}: no gradient from {part} to the images; the graph is cut inside, by no_grad, detach, "
                "rounding, NumPy or quantised layers. Attacks need it: take that out of `features`, or name the module "
                "that does it for a straight-through backward pass (bpda)."
            )
    if torch.is_autocast_enabled(images.device.type):
        return features
    return Features(*(part.to(images.dtype) for part in features))


def _typed(found: object, name: str) -> Features:
    if isinstance(found, Features) and all(isinstance(part, Tensor) for part in found):
        return found
    keys = f" with {', '.join(map(str, list(found)[:5]))}" if isinstance(found, dict) else ""
    shape = f" of shape {tuple(found.shape)}" if isinstance(found, Tensor) else ""
    raise UserError(
        f"{name} answers a {type(found).__name__}{keys}{shape}; `features` must return {WANTED}. For a network as it "
        "is, robustprobe.wrap(network, mean=..., std=...) finds both."
    )


def _check_shapes(features: Features, images: Tensor, name: str, patch: int, widths: FeatureDims) -> None:
    count, grid = len(images), (images.shape[2] // patch, images.shape[3] // patch)
    wanted = (count, widths.cls), (count, widths.patch, *grid)
    seen = tuple(features.cls.shape), tuple(features.patches.shape)
    if seen == wanted:
        return
    remedy = _remedy(seen[1], wanted[1])
    raise UserError(
        f"{name}: cls and patches of {seen[0]} and {seen[1]} instead of {wanted[0]} and {wanted[1]} for images of "
        f"{tuple(images.shape)}, patch size {patch} and widths {tuple(widths)}. {remedy}"
    )


def _remedy(seen: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    count, width, *grid = wanted
    if seen == (count, *grid, width):
        return "Channels are last: return patches.permute(0, 3, 1, 2)."
    if len(seen) == 3:
        return "Patch tokens are a list: return tokens.transpose(1, 2).reshape(B, D, h, w), without class token."
    return "Correct `features`, or the card."


@contextmanager
def failures(encoder: nn.Module, name: str, images: Tensor) -> Iterator[None]:
    """Errors of an encoder's own code are UserErrors; that there is no memory left is not one."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        kinds = {p.dtype for p in encoder.parameters() if p.is_floating_point()} - {images.dtype}
        if isinstance(error, RuntimeError) and kinds and "type" in str(error):
            raise UserError(
                f"{name} has weights of {', '.join(sorted(map(str, kinds)))} and got images of {images.dtype}: "
                f"{error}. Convert the weights, encoder.float(), or the images inside `features`."
            ) from error
        said = f"{type(error).__name__}: {str(error).strip()}".removesuffix(": ")
        raise UserError(
            f"{name} fails on images of {tuple(images.shape)}: {said}. Its features must take a batch of any number of "
            "images in [0, 1]."
        ) from error


def check_not_lazy(encoder: nn.Module, name: str) -> None:
    """Raises UserError for layers that get their weights with their first call only, which nothing can freeze."""
    if any(is_lazy(tensor) for tensor in chain(encoder.parameters(), encoder.buffers())):
        raise UserError(f"{name} has lazy layers without weights; call them once in its constructor.")


def check_usable(encoder: nn.Module, name: str, own_forward: bool) -> None:
    """Raises UserError for an encoder that one call would not show to be wrong.

    That is another `forward`, layers that stay in training mode, networks that torch does not know of, and weights
    without values.
    """
    if not own_forward:
        raise UserError(f"{name} has a `forward` of its own, past all checks; call it `features`.")
    training = next((key or "itself" for key, module in encoder.named_modules() if module.training), None)
    if training is not None:
        raise UserError(
            f"{name}: the layer {training} stays in training mode after .eval(), so that one image would depend on "
            "others. Leave train() as torch has it."
        )
    if any(tensor.is_meta for tensor in chain(encoder.parameters(), encoder.buffers())):
        raise UserError(f"{name} has weights on the device meta, which holds no values; load them first.")
    known = {id(module) for module in encoder.modules()}
    for key, module in encoder.named_modules():
        for attribute, value in vars(module).items():
            if attribute.startswith("_") or not any(id(one) not in known for one in _networks(value)):
                continue
            raise UserError(
                f"{name} keeps networks in {f'{key}.' if key else ''}{attribute}, where torch does not find them: they "
                "would stay in training mode, and their weights would not count. Use nn.ModuleList or nn.ModuleDict."
            )


def _networks(value: object) -> list[nn.Module]:
    """The networks in a list or dictionary."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [part for part in parts if isinstance(part, nn.Module)]


@contextmanager
def unchanged(encoder: nn.Module, name: str) -> Iterator[None]:
    """Raises UserError where use of a frozen encoder inside leaves a layer in training mode or changes weights."""
    before = _weights(encoder)
    yield
    training = next((key for key, module in encoder.named_modules() if key and module.training), None)
    if training is not None:
        _refuse(name, f"its layer {training} is in training mode after `features`")
    after = _weights(encoder)
    changed = next((key for key, seen in after.items() if before.get(key, seen) != seen), None)
    if changed is not None:
        _refuse(name, f"`features` changed its own {changed}, as a BatchNorm in training mode does")


def _weights(encoder: nn.Module) -> dict[str, object]:
    """Identities of parameters and buffers of the state; quantised layers make its other tensors anew each time."""
    kept = encoder.state_dict().keys()
    tensors = chain(encoder.named_parameters(), encoder.named_buffers())
    return {key: identity(tensor) for key, tensor in tensors if key in kept}


def _refuse(name: str, what: str) -> NoReturn:
    raise UserError(
        f"{name}: {what}. One image would then depend on others, and one encoder would become several. Leave layers in "
        "evaluation mode: no .train() inside `features`."
    )


def identity(value: object) -> object:
    """What changes where a tensor of a state is written to or replaced; tensors of inference mode count no versions."""
    if not isinstance(value, Tensor):
        return id(value)
    return (id(value) if value.is_quantized else value.data_ptr(), 0 if value.is_inference() else value._version)
