"""Threat models: which perturbed images are allowed, and steps and projections among them."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self, final

import torch
from torch import Tensor

from robustprobe.core.l1_projection import nearest_sizes
from robustprobe.core.sums import image_sums


def image_generator(seed: int, image_id: str, *purpose: object) -> torch.Generator:
    """The random stream of one image and one purpose, independent of batch, order and device."""
    key = "\0".join([str(seed), image_id, *(str(p) for p in purpose)])
    state = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 2**63
    return torch.Generator().manual_seed(state)


class Threat(ABC):
    """A ball around each image, intersected with the box [0, 1]."""

    def __init__(self, eps: float) -> None:
        self.eps = eps

    @abstractmethod
    def noise(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Random perturbations (B, 3, H, W) in the ball, with one generator per image."""

    @abstractmethod
    def stretch(self, perturbation: Tensor) -> Tensor:
        """Perturbations scaled to the surface of the ball, per image."""

    @abstractmethod
    def ascend(self, images: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        """One step of steepest ascent, without projection; `step_size` is one number or per image, (B, 1, 1, 1)."""

    @abstractmethod
    def clip(self, perturbation: Tensor) -> Tensor:
        """The nearest perturbation inside the ball."""

    @abstractmethod
    def size(self, perturbation: Tensor) -> Tensor:
        """Size (B,) of perturbations in this norm."""

    @abstractmethod
    def resized(self, factor: float) -> "Threat":
        """The same threat with a ball `factor` times as large."""

    def project(self, adversarial: Tensor, images: Tensor) -> Tensor:
        """Images inside ball and box: moved into the ball, then into the box; the nearest, but for L2."""
        return (images + self.clip(adversarial - images)).clamp(0, 1)

    @final
    def cast(self, adversarial: Tensor, images: Tensor) -> Tensor:
        """`adversarial` in the dtype of `images`, rounded towards `images` where rounding would leave the ball."""
        cast = adversarial.to(images.dtype)
        if cast.dtype in (torch.float32, torch.float64):
            return cast
        outside = (cast.double() - images.double()).abs() > (adversarial.double() - images.double()).abs()
        return torch.where(outside, towards(cast, images), cast)


@final
class Linf(Threat):
    """Every pixel value may change by at most eps."""

    def noise(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        randomness = [torch.rand(images.shape[1:], generator=g, dtype=torch.float32) for g in generators]
        return (torch.stack(randomness).to(images) * 2 - 1) * self.eps

    def stretch(self, perturbation: Tensor) -> Tensor:
        return self.eps * perturbation / over_image(self.size(perturbation)).clamp(min=TINY)

    def ascend(self, images: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        return images + step_size * gradient.sign()

    def clip(self, perturbation: Tensor) -> Tensor:
        return perturbation.clamp(-self.eps, self.eps)

    def size(self, perturbation: Tensor) -> Tensor:
        return perturbation.abs().flatten(1).amax(1)

    def resized(self, factor: float) -> "Linf":
        return Linf(self.eps * factor)


@final
class L2(Threat):
    """The L2 norm of the perturbation of an image is at most eps."""

    def noise(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Uniform in the ball: a Gaussian direction, and a radius distributed as in the volume of the ball."""
        randomness = [torch.randn(images.shape[1:], generator=g, dtype=torch.float32) for g in generators]
        drawn = [float(torch.rand(1, generator=g, dtype=torch.float64)) for g in generators]
        radii = torch.tensor(drawn, dtype=torch.float32)
        share = radii.to(images) ** (1 / images[0].numel())
        return self.stretch(torch.stack(randomness).to(images)) * over_image(share)

    def stretch(self, perturbation: Tensor) -> Tensor:
        return self.eps * self._unit(perturbation)

    def ascend(self, images: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        return images + step_size * self._unit(gradient)

    def clip(self, perturbation: Tensor) -> Tensor:
        size = self.size(perturbation)
        # The rounded product could lie outside the ball by a few units in the last place.
        inside = self.eps * (1 - 4 * torch.finfo(perturbation.dtype).eps) / size.clamp(min=TINY)
        return perturbation * over_image(torch.where(size > self.eps, inside, 1.0))

    def size(self, perturbation: Tensor) -> Tensor:
        return image_sums(perturbation.square()).sqrt()

    def resized(self, factor: float) -> "L2":
        return L2(self.eps * factor)

    def _unit(self, direction: Tensor) -> Tensor:
        # The squares of small gradients underflow in float32.
        direction = direction / over_image(direction.abs().flatten(1).amax(1)).clamp(min=TINY)
        return direction / over_image(self.size(direction)).clamp(min=TINY)


@final
class L1(Threat):
    """The absolute changes of all pixel values of an image sum to at most eps."""

    def noise(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Uniform in the ball: exponential variables, divided by their sum and one more, with random signs."""
        count = images[0].numel()
        drawn = [torch.empty(count + 1, dtype=torch.float64).exponential_(generator=g) for g in generators]
        signs = [torch.randint(0, 2, images.shape[1:], generator=g) * 2 - 1 for g in generators]
        shares = torch.stack([(d / d.sum())[:count] for d in drawn]).reshape(images.shape)
        return (self.eps * shares * torch.stack(signs)).to(images)

    def stretch(self, perturbation: Tensor) -> Tensor:
        return self.eps * perturbation / over_image(self.size(perturbation)).clamp(min=TINY)

    def ascend(self, images: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        """Steepest ascent in the box: values of largest gradient go to its end, one by one, until the step is spent.

        Of all moves inside [0, 1] with an L1 norm of `step_size`, it raises a linear loss most.
        """
        room = torch.where(gradient > 0, 1 - images, images).clamp(min=0).masked_fill(gradient == 0, 0)
        order = gradient.abs().flatten(1).argsort(1, descending=True)
        ordered = room.double().flatten(1).gather(1, order)
        length = torch.as_tensor(step_size, dtype=torch.float64, device=images.device).reshape(-1, 1)
        spent = torch.minimum(ordered, (length - (ordered.cumsum(1) - ordered)).clamp(min=0))
        sizes = torch.zeros_like(spent).scatter(1, order, spent).reshape(images.shape)
        return images + (sizes * gradient.sign()).to(images.dtype)

    def ascend_sparse(
        self, images: Tensor, gradient: Tensor, step_size: float | Tensor, share: float | Tensor
    ) -> Tensor:
        """A step that changes the given share of the pixel values, those of largest gradient, all by as much.

        `share` is one number or per image, (B,). Values without a gradient stay.
        """
        sizes = gradient.abs().flatten(1)
        place = torch.as_tensor((1 - share) * sizes.shape[1], device=sizes.device).long().clamp(0, sizes.shape[1] - 1)
        least = sizes.sort(1).values.gather(1, place.expand(len(sizes))[:, None])
        signs = torch.where(gradient.abs() >= over_image(least[:, 0]), gradient.sign(), 0)
        return images + step_size * signs / over_image(self.size(signs)).clamp(min=1)

    def clip(self, perturbation: Tensor) -> Tensor:
        return self._clip(perturbation, torch.full_like(perturbation, torch.inf, dtype=torch.float64))

    def project(self, adversarial: Tensor, images: Tensor) -> Tensor:
        """The nearest images inside ball and box: clipping to the box after the ball would waste a part of eps."""
        moved = adversarial - images
        clipped = self._clip(moved, torch.where(moved > 0, 1 - images, images).double())
        found = images + clipped
        outside = (found.double() - images.double()).abs() > clipped.double().abs()
        return torch.where(outside, towards(found, images), found)

    def size(self, perturbation: Tensor) -> Tensor:
        return image_sums(perturbation.abs().double()).to(perturbation.dtype)

    def resized(self, factor: float) -> "L1":
        return L1(self.eps * factor)

    def _clip(self, perturbation: Tensor, room: Tensor) -> Tensor:
        # Sums are rounded to the type of the images, as under L2; those of many values even in double precision.
        radius = self.eps * (1 - max(4 * torch.finfo(perturbation.dtype).eps, MANY_SUMMANDS))
        sizes = nearest_sizes(perturbation.abs().double().flatten(1), room.flatten(1), radius)
        return (sizes.reshape(perturbation.shape) * perturbation.sign()).to(perturbation.dtype)


class _Unbounded(Threat):
    """Every image of the box [0, 1] is allowed."""

    def noise(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        randomness = [torch.rand(images.shape[1:], generator=g, dtype=torch.float32) for g in generators]
        return torch.stack(randomness).to(images) - images

    def stretch(self, perturbation: Tensor) -> Tensor:
        return perturbation

    def ascend(self, images: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        return images + step_size * gradient.sign()

    def clip(self, perturbation: Tensor) -> Tensor:
        return perturbation

    def resized(self, factor: float) -> Self:
        return type(self)(self.eps * factor)


@final
class WholeBox(_Unbounded):
    """Every image of the box [0, 1] is allowed: a corruption has a severity in place of a ball.

    Sizes are the largest change of a pixel value.
    """

    def size(self, perturbation: Tensor) -> Tensor:
        return perturbation.abs().flatten(1).amax(1)


@final
class ChangedArea(_Unbounded):
    """A share `eps` of the pixels of an image may take any value of the box [0, 1].

    Sizes are the share of pixels that are changed.
    """

    def size(self, perturbation: Tensor) -> Tensor:
        return (perturbation != 0).any(1).flatten(1).double().mean(1).to(perturbation.dtype)


NORMS: dict[str, type[Threat]] = {"linf": Linf, "l2": L2, "l1": L1}
THREATS: dict[str, type[Threat]] = {**NORMS, "severity": WholeBox, "area": ChangedArea}
TINY = 1e-30
MANY_SUMMANDS = 1e-12


def over_image(values: Tensor) -> Tensor:
    """One value per image, (B,), as (B, 1, 1, 1)."""
    return values[:, None, None, None]


def towards(values: Tensor, goal: Tensor) -> Tensor:
    """The next representable value from each of `values` (half precision) towards `goal`."""
    step = torch.finfo(values.dtype).eps * values.double().abs().clamp(min=torch.finfo(values.dtype).tiny)
    moved = values.double() + (goal.double() - values.double()).sign() * step
    past = (moved - goal.double()) * (values.double() - goal.double()) < 0
    return torch.where(past, goal.double(), moved).to(values.dtype)
