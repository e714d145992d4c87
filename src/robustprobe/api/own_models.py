"""A model of the user's own as attacks call it: it never writes into their images, and its answer is a tensor."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from robustprobe.core.device import out_of_memory
from robustprobe.core.errors import UserError
from robustprobe.core.fast_linear import fast_linear
from robustprobe.core.freeze import frozen, held_networks, running_networks
from robustprobe.core.types import Features
from robustprobe.encoders import Encoder
from robustprobe.tasks import Model

ANSWERS = ("logits", "out", "predicted_depth")
"""Where models keep their answer: of transformers, of torchvision's segmenters, of transformers' depth networks."""
HALF = (torch.float16, torch.bfloat16)


@final
class OwnModel:
    """A callable of the user's: images (B, 3, H, W) to what it answers.

    It is given a copy, as some models write into their images, in the half precision of its weights where it is a
    module. Of a dictionary or object, `ANSWERS` are looked for.
    """

    def __init__(self, model: Callable[[Tensor], Any]) -> None:
        self.model = model
        self.__wrapped__: list[Any] = [model]
        weights = weight_type(model) if isinstance(model, nn.Module) else None
        self.cast = weights if weights in HALF else None
        self.answer: Any = None
        """To one image, once it was looked at."""

    def __call__(self, images: Tensor) -> Any:
        answer = self._asked(images)
        if not _fits(answer, images):
            raise UserError(
                f"the model answers {tuple(answer.shape)} for {len(images)} image{'' if len(images) == 1 else 's'}; "
                "the first axis must be that of the images. Do not average over it, and take care of squeeze()."
            )
        return answer

    def _asked(self, images: Tensor) -> Any:
        try:
            return answer_of(self.model(images.to(self.cast or images.dtype, copy=True)))
        except UserError:
            raise
        except Exception as error:
            if out_of_memory(error):
                raise
            raise _failure(images, error) from error

    def look(self, images: Tensor) -> None:
        """Keep its answer to one of the images (B, 3, H, W), and learn which networks it uses.

        Raises:
            UserError: it fails on the image.
        """
        try:
            with torch.no_grad(), frozen(self.model), fast_linear(), self._watched() as networks:
                self.answer = self._asked(images[:1])
                # A constant has as many answers as there are images, whatever it is asked.
                if not _fits(self.answer, images[:1]) and self.answer.shape != self(images).shape:
                    self(images[:1])
            self.__wrapped__ = [self.model, *networks]
        except UserError:
            raise
        except Exception as error:
            raise _failure(images[:1], error) from error

    def _watched(self) -> AbstractContextManager[list[nn.Module]]:
        # A module knows its networks, and a compiled one would be compiled again under hooks.
        return nullcontext([]) if isinstance(self.model, nn.Module) else running_networks()


def _failure(images: Tensor, error: Exception) -> UserError:
    """What is told of an error of the model's own code."""
    what = f"{'an image' if len(images) == 1 else 'images'} {tuple(images.shape)} of {images.dtype}"
    asked = " that require a gradient, as attacks need it" if images.requires_grad else ""
    return UserError(
        f"the model fails on {what}{asked}: {type(error).__name__}: {error}. It must take images (B, 3, H, W) in "
        "[0, 1] as they are handed to attack; put resizing, normalisation and conversion into it, for instance with a "
        "lambda."
    )


def _fits(answer: object, images: Tensor) -> bool:
    """Whether the first axis of a tensor is that of the images."""
    return not isinstance(answer, Tensor) or (answer.ndim > 0 and len(answer) == len(images))


def own_model(model: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """Encoders and models of the package as they are, any other callable as an `OwnModel`.

    Raises:
        UserError: no callable, a class in place of an object, or weights that were made in inference mode.
    """
    if not callable(model) or isinstance(model, type):
        what = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise UserError(
            f"the model is {what}; attack takes a network or another callable, called with images (B, 3, H, W). Load "
            "an encoder by its name with robustprobe.load_encoder."
        )
    check_weights(model)
    return model if isinstance(model, Encoder | Model) else OwnModel(model)


def check_weights(model: object) -> None:
    """Raises UserError where a callable holds weights made in inference mode, or on the device meta, or none yet."""
    if any(is_lazy(tensor) for network in held_networks(model) for tensor in _tensors(network)):
        raise UserError("the model has lazy layers without weights; call it once with images first.")
    if any(tensor.is_meta for network in held_networks(model) for tensor in _tensors(network)):
        raise UserError("the model has weights on the device meta, which holds no values; load them first.")
    if any(tensor.is_inference() for network in held_networks(model) for tensor in _tensors(network)):
        raise UserError(
            "the model's weights were made inside torch.inference_mode, where no gradient can pass. Load it outside, "
            "or make a copy there: copy.deepcopy(model)."
        )


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    return chain(network.parameters(), network.buffers())


def weight_type(model: object) -> torch.dtype | None:
    """The floating-point type of all weights that a callable holds; None where there are none or several."""
    kinds = {p.dtype for network in held_networks(model) for p in network.parameters() if p.is_floating_point()}
    return next(iter(kinds)) if len(kinds) == 1 else None


def in_type_of(model: object, images: Tensor) -> Tensor:
    """Images in the type of the model's weights, in float32 where these are narrower."""
    wanted = weight_type(model)
    if wanted is None or wanted == images.dtype:
        return images
    return images.to(torch.float32 if wanted in HALF else wanted)


def answer_of(answer: Any) -> Any:
    """A tensor or features as they are; of a dictionary or object the first of `ANSWERS`; else the answer itself."""
    if isinstance(answer, Tensor | Features):
        return answer
    for name in ANSWERS:
        found = answer.get(name) if isinstance(answer, Mapping) else getattr(answer, name, None)
        if isinstance(found, Tensor):
            return found
    return answer


def check_real(answer: object) -> None:
    """Raises UserError for whole numbers, which no attack can raise or lower a little."""
    if isinstance(answer, Tensor) and not answer.is_floating_point():
        raise UserError(f"the model answers {answer.dtype}; an attack needs floating point, such as logits.")


def check_embedding(answer: Any) -> None:
    """Raises UserError for an answer that is neither features nor a tensor of floating-point numbers."""
    if isinstance(answer, Features) or (isinstance(answer, Tensor) and answer.is_floating_point()):
        return
    keys = f" with {', '.join(map(str, list(answer)[:5]))}" if isinstance(answer, Mapping) else ""
    raise UserError(
        f"the model answers {type(answer).__name__}{keys}; embed moves Features or one floating-point tensor. Choose "
        "one: lambda images: model(images)[...]."
    )
