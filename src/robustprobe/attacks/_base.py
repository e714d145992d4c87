"""What every attack is: images in, images inside ball and box out, nothing else changed."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, cast, final

import torch
from torch import Tensor, nn

from robustprobe.errors import UserError
from robustprobe.registry import attacks
from robustprobe.spec import AttackSpec
from robustprobe.threat import NORMS, Threat, image_generator
from robustprobe.types import LabelSpace


class Victim(NamedTuple):
    """What an attack may see: a function of images, its labels (B, ...) and what they mean.

    `function` is the encoder for an attack that sees no head, else the model; it maps (B, 3, H, W) in [0, 1] to
    features or outputs.
    """

    function: Callable[[Tensor], Any]
    targets: Tensor | None = None
    space: LabelSpace = LabelSpace()


class Attack(ABC):
    """An attack under one threat. Derived classes fill `perturb`; the call itself checks and is final."""

    sees: ClassVar[str]
    """The task whose model is attacked, `encoder` for the encoder alone, or `nothing`."""

    def __init__(self, spec: AttackSpec) -> None:
        self.spec = spec
        self.threat: Threat = NORMS[spec.norm](spec.eps)

    @abstractmethod
    def perturb(self, victim: Victim, images: Tensor, start: Tensor) -> Tensor:
        """Adversarial images for float32 images, from a random start inside the ball."""

    @final
    def __call__(self, victim: Victim, images: Tensor, ids: Sequence[str]) -> Tensor:
        """Adversarial images (B, 3, H, W) in the dtype of `images`, inside the ball and [0, 1].

        Args:
            images: (B, 3, H, W) floating point in [0, 1].
            ids: names the images; random starts follow them, not the place in the batch.

        Raises:
            UserError: images that are not such a batch, or a model that answers NaN.
        """
        check_images(images)
        if len(ids) != len(images):
            raise UserError(f"{len(ids)} ids came with {len(images)} images; give one id an image, or none.")
        if self.spec.eps == 0:
            return images.clone()
        with torch.enable_grad(), frozen(victim.function):
            working = images if images.dtype == torch.float64 else images.float()
            exact = victim._replace(function=lambda x: victim.function(x.to(images.dtype)))
            adversarial = self.perturb(exact, working, self._start(working, ids))
            return self.threat.cast(self.threat.project(adversarial, working), images).detach()

    def _start(self, images: Tensor, ids: Sequence[str]) -> Tensor:
        if not self.spec.random_start:
            return images.clone()
        generators = [image_generator(self.spec.seed, i, self.spec.name) for i in ids]
        return self.threat.project(images + self.threat.noise(images, generators), images)


def load_attack(spec: AttackSpec) -> Attack:
    """The attack a spec describes. Raises UserError for an unknown name."""
    return cast(type[Attack], attacks.get(spec.name))(spec)


def check_images(images: Tensor) -> None:
    """Raises UserError unless images are a floating-point batch (B, 3, H, W) in [0, 1] without NaN."""
    if images.ndim != 4 or not images.is_floating_point():
        raise UserError(
            f"images have shape {tuple(images.shape)} and type {images.dtype}; expected floating point (B, 3, H, W) in "
            "[0, 1]. Divide 8-bit images by 255."
        )
    if images.isnan().any():
        raise UserError("images hold NaN; expected values in [0, 1]. Look for the image that was read wrongly.")
    if images.numel() and (images.min() < 0 or images.max() > 1):
        low, high = float(images.min()), float(images.max())
        raise UserError(
            f"images range from {low:.3g} to {high:.3g}; expected [0, 1]. Move any normalisation into the model."
        )


@contextmanager
def frozen(function: Callable[..., Any]) -> Iterator[None]:
    """Evaluation mode and no parameter gradients while inside; everything is put back afterwards."""
    modules = list(function.modules()) if isinstance(function, nn.Module) else []
    parameters = list(function.parameters()) if isinstance(function, nn.Module) else []
    modes, flags = [m.training for m in modules], [p.requires_grad for p in parameters]
    try:
        for module in modules:
            module.training = False
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for parameter, flag in zip(parameters, flags, strict=True):
            parameter.requires_grad_(flag)
