"""The contract of attacks: images in, adversarial images inside ball and [0, 1] out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast, final

import torch
from torch import Tensor

from robustprobe.attacks._search import Passes, PerImageRandom, SearchResult, all_passes, ascent_passes, query_passes
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.errors import UserError
from robustprobe.core.fast_linear import fast_linear
from robustprobe.core.freeze import frozen
from robustprobe.core.registry import attacks
from robustprobe.core.sizes import OWN_UNITS, OwnUnit
from robustprobe.core.threat import NORMS, THREATS, Threat
from robustprobe.core.types import AttackLosses, Features, LabelSpace
from robustprobe.results.records import AttackAccess

# Passes beside those of the search: one for the clean image and one for the warm start.
LOOKS = 2
# What interpolation and rounding lead outside [0, 1] at most.
ROUNDED = 1e-3
Layers = Callable[[Tensor, tuple[int, ...]], list[Features]]
FitSurrogates = Callable[[tuple[int, int]], Sequence[Callable[[Features, tuple[int, int]], Tensor]]]


class Victim(NamedTuple):
    """What an attack has access to.

    `function` maps images (B, 3, H, W) in [0, 1] to features or outputs: the encoder for a label-free attack, else the
    model, with its labels (B, ...), their label space and the attack losses of its task. `layers` gives the features of
    blocks inside the encoder; `goals` are images (B, 3, H, W) whose embedding a targeted attack approaches;
    `surrogate_heads` returns heads fitted without task labels, for images of a size (H, W): each maps features and a
    size to logits. `universal` returns the perturbation (3, H, W) that a `UniversalAttack` makes on training images.
    `without` leaves labels out that lie in a mask (B, H, W) of the image: see `Task.without`.
    """

    function: Callable[[Tensor], Any]
    targets: Tensor | None = None
    space: LabelSpace = LabelSpace()
    attack_losses: AttackLosses | None = None
    task: str = ""
    layers: Layers | None = None
    goals: Tensor | None = None
    surrogate_heads: FitSurrogates | None = None
    universal: "Callable[[Any], Tensor] | None" = None
    without: Callable[[Tensor, Tensor], Tensor] | None = None


class Attacked(NamedTuple):
    """Adversarial images (B, 3, H, W), with diagnostics for the sanity checks.

    `damage` (B,) is the damage by the attack's own measure, NaN if it has none. `zero_gradient` (B,) is the
    mean share of exactly zero values in the input gradients of unbroken images, NaN if there were no such gradients;
    `rising` (B,) the share of the objective's gain that came in the last fifth of the steps, NaN for broken images.
    `forwards` and `backwards` count images passed through the victim, summed over the batch. `searches` are the images
    of each of several searches, like `images`, where the choice among them is made for the whole set. Where patches
    were put into images, `boxes` (B, 4) are their top, left, height and width: what lies there is not judged. `control`
    are images with a patch of noise in the same place.
    """

    images: Tensor
    damage: Tensor
    zero_gradient: Tensor
    rising: Tensor
    forwards: int
    backwards: int
    searches: tuple[Tensor, ...] = ()
    boxes: Tensor | None = None
    control: Tensor | None = None


class Attack(ABC):
    """An attack under one threat model. Derived classes implement `perturb`; the final call does the checks."""

    access: ClassVar[str]
    """What is attacked: a task's name for its model, `task` for the model of any task, `encoder` or `nothing`."""

    uses_gradient: ClassVar[bool] = True
    """Whether it uses input gradients; an attack without them serves as a sanity check of the others."""

    warm_start: ClassVar[bool] = True
    """Whether a larger eps starts from the images of the smaller one, and so does no less damage."""

    keeps_wrong_images: ClassVar[bool] = False
    """Whether it returns images that are wrong from the start unchanged, so that no change at all is no failure."""

    survivors_only: ClassVar[bool] = False
    """Whether it stops on broken images at once, independent of `early_exit`, so that `passes` are the most."""

    whole_set: ClassVar[bool] = False
    """Whether it makes several searches and, where the score is that of a set (`AttackLosses.of_set`), keeps the images
    of each: which of them counts is chosen by what it does to the set."""

    citation: ClassVar[str] = ""
    """The publication to cite; empty where there is none. A string literal, as it is also read without torch."""

    uses_training: ClassVar[bool] = False
    """Whether it is made on training images; running it again on a few test images would check nothing."""

    own_unit: ClassVar[OwnUnit | None] = None
    """What its size is where it is not the eps of a ball: the `severity` of a corruption, the `area` of a patch."""

    norms: ClassVar[frozenset[str]] = frozenset(NORMS)
    """The norms that it takes, unless it has a unit of its own."""

    steps: ClassVar[int] = 20
    """The default number of steps."""

    tuning: ClassVar[frozenset[str]] = frozenset({"judgements"})
    """The options of `AttackTuning` that it takes; `judgements` belongs to who judges."""

    def __init__(self, spec: AttackSpec) -> None:
        if not_taken := sorted(spec.tuned.keys() - self.tuning):
            takes = ", ".join(sorted(self.tuning))
            raise UserError(f"attack {spec.name} does not take {', '.join(not_taken)}; it takes {takes}.")
        given = next((unit for unit in OWN_UNITS if unit == spec.norm), None)
        if given != self.own_unit:
            has, came = (OWN_UNITS[unit].range_words if unit else "an eps" for unit in (self.own_unit, given))
            raise UserError(f"attack {spec.name} has {has}; it got {came}.")
        if not self.own_unit and spec.norm not in self.norms:
            raise UserError(f"attack {spec.name} takes the norm {' or '.join(sorted(self.norms))}; it got {spec.norm}.")
        self.spec = spec
        self.threat: Threat = THREATS[spec.norm](spec.eps)

    @abstractmethod
    def perturb(
        self, victim: Victim, images: Tensor, randomness: PerImageRandom, previous: Tensor | None
    ) -> SearchResult:
        """Adversarial images for float32 images.

        Args:
            randomness: random numbers per image.
            previous: adversarial images inside a smaller ball, if there are any.
        """

    def passes(self, losses: AttackLosses | None = None) -> Passes:
        """The maximum of passes through the victim per image, from which the time of an attack is estimated.

        By default one search per restart, and one pass for the clean image and one for the warm start. Attacks with
        other searches override it. One draw of the model; `total_passes` counts all.

        Args:
            losses: the attack losses of the attacked task; None for attacks without access to a head.
        """
        search = (ascent_passes if self.uses_gradient else query_passes)(self.spec.steps).times(self.spec.restarts)
        return search._replace(forwards=search.forwards + LOOKS)

    def warm_passes(self, losses: AttackLosses | None = None) -> Passes:
        """The passes of the run from images of a smaller ball."""
        return (ascent_passes if self.uses_gradient else query_passes)(self.spec.steps)

    @final
    def total_passes(self, losses: AttackLosses | None = None) -> Passes:
        """The same for all draws of a model that answers at random, and for gradients beside the iterates."""
        found = self.passes(losses)
        if self.spec.warm:
            found = all_passes([found, self.warm_passes(losses)])
        diverse = found.backwards if self.spec.input_diversity else 0
        return Passes(found.forwards + diverse, found.backwards).times(self.spec.eot_samples)

    @final
    def __call__(self, victim: Victim, images: Tensor, ids: Sequence[str]) -> Tensor:
        """Adversarial images (B, 3, H, W) in the dtype of `images`, inside the ball and [0, 1]; see `run`."""
        return self.run(victim, images, ids).images

    @final
    def run(self, victim: Victim, images: Tensor, ids: Sequence[str], previous: Tensor | None = None) -> Attacked:
        """Adversarial images (B, 3, H, W) in the dtype of `images`, inside the ball and [0, 1], with diagnostics.

        Args:
            images: (B, 3, H, W) floating point in [0, 1].
            ids: names of the images; random starts depend on them, not on the index in the batch.
            previous: images that the same attack made under a smaller eps; the result has no less damage.

        Raises:
            UserError: images that are not such a batch, an output or a gradient that is not finite, or a gradient
                attack that could not move an unbroken image, as every gradient at the image itself was 0.
        """
        check_images(images)
        if len(ids) != len(images):
            raise UserError(f"{len(ids)} ids for {len(images)} images; give one id per image, or none.")
        none = torch.full((len(images),), torch.nan, dtype=torch.float32)
        if self.spec.eps == 0:
            return Attacked(images.detach().clone(), none, none, none, 0, 0)
        with torch.enable_grad(), fast_linear(), frozen(victim.function):
            working = images if images.dtype == torch.float64 else images.float()
            counter = Counter(victim.function, images.dtype)
            randomness = PerImageRandom(self.spec.seed, tuple(ids), self.spec.name)
            layers = counter.layers(victim.layers) if victim.layers else None
            seen = victim._replace(function=counter, layers=layers)
            found = self.perturb(seen, working, randomness, previous)
            _check_moved(self.spec.name, found, working, ids)
            searches = () if found.searches is None else tuple(found.searches)
            adversarial, *each = (
                self.threat.cast(self.threat.project(moved, working), images).detach()
                for moved in (found.images, *searches)
            )
            trace = (found.damage.cpu(), found.zero_gradient.cpu(), found.rising.cpu())
            control = None if found.control is None else found.control.to(images.dtype)
            passes = (counter.forwards, counter.backwards)
            return Attacked(adversarial, *trace, *passes, tuple(each), found.boxes, control)


def _check_moved(name: str, found: SearchResult, images: Tensor, ids: Sequence[str]) -> None:
    """Raises UserError where a search never left an unbroken image.

    Images that merely were not damaged pass: there the gradient was not 0 everywhere, or there was none to ask for.
    """
    unchanged = (found.images == images).flatten(1).all(1).cpu()
    stuck = (unchanged & (found.zero_gradient.cpu() == 1)).nonzero()[:, 0].tolist()
    if stuck:
        raise UserError(
            f"{name} did not move {len(stuck)} of {len(images)} images, the first of them {ids[stuck[0]]!r}: the "
            "gradient there is exactly 0, and the clean score would pass for a robust one. Start at random "
            "(random_start), or look for what sets the gradient to 0."
        )


class Counter:
    """A function of images that counts the images passed through it and converts their dtype."""

    def __init__(self, function: Callable[[Tensor], Any], dtype: torch.dtype) -> None:
        self.function, self.dtype = function, dtype
        self.forwards = self.backwards = 0

    def __call__(self, images: Tensor) -> Any:
        return self.function(self._noted(images))

    def layers(self, layers: Layers) -> Layers:
        """The same for a function that returns features of layers."""
        return lambda images, which: layers(self._noted(images), which)

    def _noted(self, images: Tensor) -> Tensor:
        self.forwards += len(images)
        self.backwards += len(images) if images.requires_grad and torch.is_grad_enabled() else 0
        return images.to(self.dtype)


def target_tasks(name: str, tasks: Mapping[str, Collection[str]]) -> list[str]:
    """The tasks whose models an attack is made against; `[""]` for an attack without access to a head.

    Args:
        tasks: names of the evaluated tasks, each with the attacks that fit it beside those made for it by name.

    Raises:
        UserError: no such attack.
    """
    access = cast(type[Attack], attacks.get(name)).access
    if access in ("nothing", "encoder"):
        return [""]
    return [task for task, fitting in tasks.items() if access in ("task", task) or name in fitting]


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
        remedy = "Divide 8-bit images by 255" if images.dtype == torch.uint8 else "Give a batch of images in that form"
        raise UserError(
            f"images have shape {tuple(images.shape)} and type {images.dtype}; expected floating point (B, 3, H, W) in "
            f"[0, 1]. {remedy}."
        )
    if images.isnan().any():
        raise UserError("images hold NaN; expected values in [0, 1]. Find the image that was read incorrectly.")
    if images.numel() and (images.min() < 0 or images.max() > 1):
        low, high = float(images.min()), float(images.max())
        if low > -ROUNDED and high < 1 + ROUNDED:
            raise UserError(f"images range from {low:.9g} to {high:.9g}; expected [0, 1]. Write images.clamp(0, 1).")
        raise UserError(
            f"images range from {low:.3g} to {high:.3g}; expected [0, 1]. Move any normalisation into the model."
        )
