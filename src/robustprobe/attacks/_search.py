"""What optimisers share: search problem, random numbers per image, and the best iterate per image."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from robustprobe.core.errors import UserError
from robustprobe.core.gradients import image_gradient
from robustprobe.core.sums import mean_of
from robustprobe.core.threat import Threat, image_generator, over_image

LATE = 0.8
NOT_FINITE = (
    "the model's gradient is not finite on {count} of {total} images, though its output is: an attack cannot follow "
    "NaN or infinity. Look for a root, norm or logarithm at 0, or for overflow in half precision; or use an attack "
    "without gradients, such as square."
)


class Entries(NamedTuple):
    """What is attacked at once: entry i is run `runs[i]`, a restart or target class, of image `rows[i]`."""

    rows: Tensor
    runs: Tensor

    def part(self, index: Tensor) -> "Entries":
        return Entries(self.rows[index], self.runs[index])


class LossValues(NamedTuple):
    """Values of an objective per entry, each (n,).

    Steps maximise `loss`; adaptive steps compare `step_loss` between steps; the result is the visited iterate with
    most `damage`, of those with `success` where there are some: it marks entries whose score cannot get worse.
    """

    loss: Tensor
    step_loss: Tensor
    damage: Tensor
    success: Tensor


Objective = Callable[[Tensor, Entries, float], LossValues]
"""What an attack maximises, per image and never across images: a function of images (n, 3, H, W), their entries, and
the share of steps done."""


Diversity = Callable[[Tensor, Entries, int], Tensor]
"""Iterates (n, 3, H, W), their entries and the number of the step to the images at which a gradient is taken."""


class PerImageRandom(NamedTuple):
    """Random numbers that depend on seed, image id, attack and run, not on the batch, its order or its size."""

    seed: int
    ids: tuple[str, ...]
    purpose: str

    def generators(self, entries: Entries) -> list[torch.Generator]:
        """One generator per entry."""
        positions = zip(entries.rows.tolist(), entries.runs.tolist(), strict=True)
        return [image_generator(self.seed, self.ids[row], self.purpose, run) for row, run in positions]

    def named(self, purpose: str) -> "PerImageRandom":
        """Independent random numbers for a named part of the attack."""
        return self._replace(purpose=f"{self.purpose}/{purpose}")


class Search(NamedTuple):
    """One optimisation problem: threat, objective, settings. `stop` ends the search on an entry once it is broken.

    `draws` evaluations of the objective are averaged, for models that answer at random. For images that are to transfer
    to other models, sign steps keep the share `momentum` of earlier gradients, gradients are taken at the images that
    `diverse` makes of iterates, and `smooth` changes gradients before a sign step.
    """

    threat: Threat
    objective: Objective
    steps: int
    step_size: float
    random_start: bool = True
    last: bool = False
    stop: bool = False
    draws: int = 1
    momentum: float = 0.0
    diverse: Diversity | None = None
    smooth: Callable[[Tensor], Tensor] | None = None

    def judge(self, images: Tensor, entries: Entries, step: int) -> LossValues:
        """The objective at a step, mean over draws; broken is what every draw broke.

        Raises UserError for a loss of NaN or infinity, which would count as broken.
        """
        return _mean([self._judge(images, entries, step) for _ in range(self.draws)])

    def _judge(self, images: Tensor, entries: Entries, step: int) -> LossValues:
        judged = self.objective(images, entries, step / self.steps)
        if not torch.isfinite(judged.loss).all():
            raise UserError(
                "the model's output gives a loss that is not finite; look for NaN or infinity in its output."
            )
        return judged._replace(step_loss=judged.step_loss.detach(), damage=judged.damage.detach().double())

    def gradient(self, images: Tensor, entries: Entries, step: int) -> tuple[LossValues, Tensor]:
        """The objective at a step, and the gradient of its loss (n, 3, H, W), both mean over draws.

        Raises UserError for a gradient of NaN or infinity, along which the attack would stand still or leave the ball.
        """
        drawn = [self._gradient(images, entries, step) for _ in range(self.draws)]
        judged = _mean([values for values, _ in drawn])
        gradient = drawn[0][1] if self.draws == 1 else mean_of([found for _, found in drawn])
        if not torch.isfinite(gradient).all():
            count = int((~torch.isfinite(gradient)).flatten(1).any(1).sum())
            raise UserError(NOT_FINITE.format(count=count, total=len(images)))
        return judged, gradient

    def _gradient(self, images: Tensor, entries: Entries, step: int) -> tuple[LossValues, Tensor]:
        images = images.detach().requires_grad_(True)
        shown = self.diverse(images, entries, step) if self.diverse else images
        judged = self._judge(shown, entries, step)
        gradient = image_gradient(judged.loss.sum(), images)
        if self.diverse:
            # What counts is the score of the image itself.
            with torch.no_grad():
                judged = self._judge(images, entries, step)
        return judged._replace(loss=judged.loss.detach()), gradient

    def start(self, images: Tensor, entries: Entries, randomness: PerImageRandom, stretched: bool = False) -> Tensor:
        """Random points of the ball, or of its surface if `stretched`, clipped to [0, 1]."""
        if not self.random_start:
            return images.clone()
        noise = self.threat.noise(images, randomness.generators(entries))
        return self.threat.project(images + (self.threat.stretch(noise) if stretched else noise), images)


def _mean(draws: list[LossValues]) -> LossValues:
    """The mean of the values of several draws; success where every draw has it."""
    if len(draws) == 1:
        return draws[0]
    loss, step_loss, damage = (mean_of([getattr(d, name) for d in draws]) for name in ("loss", "step_loss", "damage"))
    return LossValues(loss, step_loss, damage, torch.stack([d.success for d in draws]).all(0))


class SearchResult(NamedTuple):
    """Adversarial images (n, 3, H, W), their damage and success, and the diagnostics of `Attacked`.

    `searches` (k, n, 3, H, W) are the images of each of several searches, where the choice among them is made later.
    `boxes` (n, 4) are the top, left, height and width of patches, and `control` images (n, 3, H, W) with a patch there
    that was not searched for.
    """

    images: Tensor
    damage: Tensor
    success: Tensor
    zero_gradient: Tensor
    rising: Tensor
    searches: Tensor | None = None
    boxes: Tensor | None = None
    control: Tensor | None = None

    @property
    def values(self) -> tuple[Tensor, ...]:
        """The fields with an entry for each image along their first axis."""
        return self.images, self.damage, self.success, self.zero_gradient, self.rising


def outranks(success: Tensor, damage: Tensor, other_success: Tensor, other_damage: Tensor) -> Tensor:
    """Which images (n,) do worse harm than others: success comes first, then damage.

    Of one answer of the model success has the larger damage anyway; the mean damage of several may be larger without.
    """
    return torch.where(success == other_success, damage > other_damage, success)


class Best:
    """The best visited image of each entry, and diagnostics for the sanity checks."""

    def __init__(self, start: Tensor, search: Search) -> None:
        count, where = len(start), start.device
        self.search = search
        self.images = start.clone()
        self.damage = torch.full((count,), -torch.inf, device=where, dtype=torch.float64)
        self.success = torch.zeros(count, dtype=torch.bool, device=where)
        self.zeros = torch.zeros(count, device=where, dtype=torch.float32)
        self.gradients = torch.zeros(count, device=where, dtype=torch.float32)
        low = torch.full((count,), -torch.inf, device=where, dtype=torch.float32)
        self.first, self.late, self.top = (low.clone() for _ in range(3))

    def visit(
        self, index: Tensor, images: Tensor, judged: LossValues, step: int, gradient: Tensor | None = None
    ) -> None:
        """Update the entries at `index` with new iterates."""
        better = outranks(judged.success, judged.damage, self.success[index], self.damage[index])
        if self.search.last and step == self.search.steps:
            better = torch.ones_like(better)
        self.images[index] = torch.where(over_image(better), images, self.images[index])
        self.damage[index] = torch.where(better, judged.damage, self.damage[index])
        self.success[index] = torch.where(better, judged.success, self.success[index])
        step_loss = judged.step_loss.float()
        if step == 0:
            self.first[index] = step_loss
        if step <= math.ceil(LATE * self.search.steps):
            self.late[index] = torch.maximum(self.late[index], step_loss)
        self.top[index] = torch.maximum(self.top[index], step_loss)
        if gradient is not None:
            whole = (~judged.success).float()
            self.zeros[index] += whole * (gradient == 0).float().flatten(1).mean(1)
            self.gradients[index] += whole

    def outcome(self) -> SearchResult:
        """The best iterates, with diagnostics."""
        gain = (self.top - self.first).clamp(min=torch.finfo(torch.float32).tiny)
        rising = torch.where(self.success, torch.nan, (self.top - self.late) / gain)
        return SearchResult(self.images, self.damage, self.success, self.zeros / self.gradients, rising)


class Passes(NamedTuple):
    """Passes through the victim per image: `forwards` counts all, `backwards` those with a gradient."""

    forwards: int
    backwards: int

    def times(self, count: int) -> "Passes":
        """The passes of `count` such searches."""
        return Passes(self.forwards * count, self.backwards * count)


def all_passes(parts: Iterable[Passes]) -> Passes:
    """The sum of passes of several searches."""
    parts = list(parts)
    return Passes(sum(part.forwards for part in parts), sum(part.backwards for part in parts))


def ascent_passes(steps: int) -> Passes:
    """Passes of a gradient search of `steps` steps, with the evaluation of its last iterate."""
    return Passes(steps + 1, steps)


def query_passes(steps: int) -> Passes:
    """Passes of a search without gradients, with the evaluation of its start."""
    return Passes(steps + 1, 0)


def everything(images: Tensor) -> Entries:
    """Entries of every image of a batch, once."""
    return Entries(torch.arange(len(images), device=images.device), torch.zeros(len(images), dtype=torch.int64))


def unjudged(images: Tensor) -> SearchResult:
    """A result for images without an objective: damage and diagnostics are NaN."""
    nan = torch.full((len(images),), torch.nan, dtype=torch.float32)
    return SearchResult(images, nan, torch.zeros(len(images), dtype=torch.bool), nan, nan)


def visited(search: Search, images: Tensor, entries: Entries) -> SearchResult:
    """A result for given images, evaluated by the objective without any step."""
    with torch.no_grad():
        judged = search.judge(images, entries, 0)
    nan = torch.full_like(judged.step_loss, torch.nan, dtype=torch.float32)
    return SearchResult(images, judged.damage, judged.success, nan, nan)


Optimiser = Callable[[Search, Tensor, Entries, PerImageRandom, Tensor | None], SearchResult]
"""A function of search, clean images (n, 3, H, W), their entries, random numbers and start images (None: random)."""
