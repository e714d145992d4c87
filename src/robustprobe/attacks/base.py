"""What every attack is: images in, images inside ball and box out, nothing else changed."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, cast, final

import torch
from torch import Tensor, nn

from robustprobe.attacks._search import PerImageRandom, SearchResult
from robustprobe.core.errors import UserError
from robustprobe.core.fast_linear import fast_linear
from robustprobe.core.registry import attacks
from robustprobe.core.spec import AttackSpec
from robustprobe.core.threat import NORMS, Threat
from robustprobe.core.types import AttackLosses, Features, LabelSpace
from robustprobe.results.records import AttackAccess

Layers = Callable[[Tensor, tuple[int, ...]], list[Features]]
FitSurrogates = Callable[[tuple[int, int]], Sequence[Callable[[Features, tuple[int, int]], Tensor]]]


class Victim(NamedTuple):
    """What an attack may see.

    `function` maps images (B, 3, H, W) in [0, 1] to features or outputs: the encoder for an attack that sees no head,
    else the model, with its labels (B, ...), what they mean, and how its task wants to be attacked. `layers` gives the
    features of blocks inside the encoder, `goals` are images (B, 3, H, W) whose embedding a targeted attack approaches,
    `surrogate_heads` fits heads without task labels, for images of a size (H, W): features and a size to logits.
    """

    function: Callable[[Tensor], Any]
    targets: Tensor | None = None
    space: LabelSpace = LabelSpace()
    attack_losses: AttackLosses | None = None
    task: str = ""
    layers: Layers | None = None
    goals: Tensor | None = None
    surrogate_heads: FitSurrogates | None = None


class Attacked(NamedTuple):
    """Adversarial images (B, 3, H, W), and how they were come by.

    `damage` (B,) is what the attack itself thinks it achieved, NaN where it asked nobody. `zero_gradient` (B,) is the
    mean share of exactly zero values in input gradients of images not broken yet, NaN where there was none;
    `rising` (B,) the share of the objective's gain that came in the last fifth of the steps, NaN for broken images.
    `forwards` and `backwards` count images passed through the victim, the whole batch together.
    """

    images: Tensor
    damage: Tensor
    zero_gradient: Tensor
    rising: Tensor
    forwards: int
    backwards: int


class Attack(ABC):
    """An attack under one threat. Derived classes fill `perturb`; the call itself checks and is final."""

    access: ClassVar[str]
    """The task whose model is attacked, `task` for that of any, `encoder` for the encoder alone, or `nothing`."""

    citation: ClassVar[str] = ""
    """The publication to cite; empty where there is none. A string literal, as it is also read without torch."""

    steps: ClassVar[int] = 20
    """Steps where the user does not say."""

    def __init__(self, spec: AttackSpec) -> None:
        self.spec = spec
        self.threat: Threat = NORMS[spec.norm](spec.eps)

    @abstractmethod
    def perturb(
        self, victim: Victim, images: Tensor, randomness: PerImageRandom, previous: Tensor | None
    ) -> SearchResult:
        """Adversarial images for float32 images.

        Args:
            draws: random numbers, by image.
            previous: adversarial images inside a smaller ball, where there are some.
        """

    @final
    def __call__(self, victim: Victim, images: Tensor, ids: Sequence[str]) -> Tensor:
        """Adversarial images (B, 3, H, W) in the dtype of `images`, inside the ball and [0, 1]; see `run`."""
        return self.run(victim, images, ids).images

    @final
    def run(self, victim: Victim, images: Tensor, ids: Sequence[str], previous: Tensor | None = None) -> Attacked:
        """Adversarial images (B, 3, H, W) in the dtype of `images`, inside the ball and [0, 1], and a trace.

        Args:
            images: (B, 3, H, W) floating point in [0, 1].
            ids: names the images; random starts follow them, not the place in the batch.
            previous: what the same attack made of these images under a smaller eps: the result is no weaker.

        Raises:
            UserError: images that are not such a batch, or a model that answers NaN.
        """
        check_images(images)
        if len(ids) != len(images):
            raise UserError(f"{len(ids)} ids came with {len(images)} images; give one id an image, or none.")
        none = torch.full((len(images),), torch.nan)
        if self.spec.eps == 0:
            return Attacked(images.clone(), none, none, none, 0, 0)
        with torch.enable_grad(), fast_linear(), frozen(victim.function):
            working = images if images.dtype == torch.float64 else images.float()
            counter = Counter(victim.function, images.dtype)
            randomness = PerImageRandom(self.spec.seed, tuple(ids), self.spec.name)
            layers = counter.layers(victim.layers) if victim.layers else None
            seen = victim._replace(function=counter, layers=layers)
            found = self.perturb(seen, working, randomness, previous)
            adversarial = self.threat.cast(self.threat.project(found.images, working), images).detach()
            trace = (found.damage.cpu(), found.zero_gradient.cpu(), found.rising.cpu())
            return Attacked(adversarial, *trace, counter.forwards, counter.backwards)


class Counter:
    """A function of images that counts the images it is asked for, and shows them in another type."""

    def __init__(self, function: Callable[[Tensor], Any], dtype: torch.dtype) -> None:
        self.function, self.dtype = function, dtype
        self.forwards = self.backwards = 0

    def __call__(self, images: Tensor) -> Any:
        return self.function(self._noted(images))

    def layers(self, layers: Layers) -> Layers:
        """The same for the layers of the function."""
        return lambda images, which: layers(self._noted(images), which)

    def _noted(self, images: Tensor) -> Tensor:
        self.forwards += len(images)
        self.backwards += len(images) if images.requires_grad and torch.is_grad_enabled() else 0
        return images.to(self.dtype)


def target_tasks(kind: type[Attack], tasks: Iterable[str]) -> list[str]:
    """Whose models an attack is made against, of the tasks there are; `""` where it sees no head."""
    if kind.access in ("nothing", "encoder"):
        return [""]
    return [task for task in tasks if kind.access in ("task", task)]


def recorded_access(kind: type[Attack]) -> AttackAccess:
    """What an attack sees, as records say it: the task itself is their `target_task`."""
    return "nothing" if kind.access == "nothing" else "encoder" if kind.access == "encoder" else "task"


def attack_class(spec: AttackSpec) -> type[Attack]:
    """The class of the attack a spec describes. Raises UserError for an unknown name."""
    return cast(type[Attack], attacks.get(spec.name))


def load_attack(spec: AttackSpec) -> Attack:
    """The attack a spec describes. Raises UserError for an unknown name."""
    return attack_class(spec)(spec)


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
