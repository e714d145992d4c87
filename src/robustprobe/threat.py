"""Threat models: which images count as perturbed versions of an image, and how to move among them."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor


def image_generator(seed: int, image_id: str, *purpose: object) -> torch.Generator:
    """The random stream of one image and one purpose, whatever batch, order or device the image comes in."""
    key = "\0".join([str(seed), image_id, *(str(p) for p in purpose)])
    state = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 2**63
    return torch.Generator().manual_seed(state)


class Threat(ABC):
    """A ball around each image, intersected with the box [0, 1]."""

    def __init__(self, eps: float) -> None:
        self.eps = eps

    @abstractmethod
    def noise(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Random perturbations (B, 3, H, W) in the ball, one generator an image."""

    @abstractmethod
    def ascend(self, images: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        """One step of steepest ascent in this norm, not yet projected."""

    @abstractmethod
    def clip(self, perturbation: Tensor) -> Tensor:
        """The nearest perturbation inside the ball."""

    @abstractmethod
    def size(self, perturbation: Tensor) -> Tensor:
        """Size (B,) of perturbations in this norm."""

    @final
    def project(self, adversarial: Tensor, images: Tensor) -> Tensor:
        """The nearest images inside ball and box."""
        return (images + self.clip(adversarial - images)).clamp(0, 1)

    @final
    def cast(self, adversarial: Tensor, images: Tensor) -> Tensor:
        """`adversarial` in the dtype of `images`, rounded towards them where rounding would leave the ball."""
        cast = adversarial.to(images.dtype)
        if cast.dtype in (torch.float32, torch.float64):
            return cast
        outside = (cast.double() - images.double()).abs() > (adversarial.double() - images.double()).abs()
        return torch.where(outside, towards(cast, images), cast)


@final
class Linf(Threat):
    """Every pixel value may move by at most eps."""

    def noise(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        draws = [torch.rand(images.shape[1:], generator=g) for g in generators]
        return (torch.stack(draws).to(images) * 2 - 1) * self.eps

    def ascend(self, images: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        return images + step_size * gradient.sign()

    def clip(self, perturbation: Tensor) -> Tensor:
        return perturbation.clamp(-self.eps, self.eps)

    def size(self, perturbation: Tensor) -> Tensor:
        return perturbation.abs().flatten(1).amax(1)


NORMS: dict[str, type[Threat]] = {"linf": Linf}


def towards(values: Tensor, goal: Tensor) -> Tensor:
    """The next representable value from each of `values` (half precision) towards `goal`."""
    step = torch.finfo(values.dtype).eps * values.double().abs().clamp(min=torch.finfo(values.dtype).tiny)
    moved = values.double() + (goal.double() - values.double()).sign() * step
    past = (moved - goal.double()) * (values.double() - goal.double()) < 0
    return torch.where(past, goal.double(), moved).to(values.dtype)
