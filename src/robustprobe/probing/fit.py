"""The training loop of heads: all candidates of a recipe are trained on the same features, the best is kept."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustprobe.core.freeze import frozen
from robustprobe.core.inner_attack import InnerAttack, ascend
from robustprobe.core.threat import image_generator
from robustprobe.core.types import FeatureDims, Features, HeadDesign
from robustprobe.core.views import last_layers
from robustprobe.losses.depth import gradient_matching
from robustprobe.probing.cache import FitProgress, forget_progress, load_progress, save_progress
from robustprobe.probing.features import FeatureBatch, FeatureSet, ShownImages, Streamed
from robustprobe.tasks import Head, Task, TaskRecipe

# Interval between saved states of a fit, which may be interrupted.
SAVE_EVERY_SECONDS = 60.0
Count = Callable[[int, int], None]


class Fitted(NamedTuple):
    """A fitted head with its learning rate, held-out score and design.

    `knn_head` predicts from the `knn` nearest train images, for tasks that have such a head.
    """

    head: Head
    learning_rate: float
    held_out_score: float
    design: HeadDesign = HeadDesign()
    knn_head: Head | None = None
    knn: int = 0


class Candidate:
    """One head in training: a design at a learning rate."""

    def __init__(self, task: Task, widths: FeatureDims, design: HeadDesign, rate: float, recipe: TaskRecipe, seed: int):
        self.task, self.widths, self.design, self.rate, self.recipe = task, widths, design, rate, recipe
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = task.new_head(FeatureDims(widths.cls * design.layers, widths.patch * design.layers), design)

    def start(self, device: torch.device) -> None:
        """Move to a device and create the optimiser."""
        self.head.to(device)
        self.optimiser = OPTIMISERS[self.recipe.optimiser](self.head.parameters(), self.rate, self.recipe)

    def step(self, part: FeatureBatch, share: float) -> None:
        """One training step, at `share` of the base learning rate."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * share
        self.optimiser.zero_grad()
        self.loss(part).mean().backward()
        if self.recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.head.parameters(), self.recipe.clip)
        self.optimiser.step()

    def loss(self, part: FeatureBatch) -> Tensor:
        """The training loss (B,) of the recipe."""
        output = self.head(self.read(part.features), part.size)
        loss = self.task.training_loss(output, part.target)
        if self.recipe.gradient_weight:
            loss = loss + self.recipe.gradient_weight * gradient_matching(output, part.target)
        return loss

    def read(self, features: Features) -> Features:
        """Features of the layers that the head reads."""
        return last_layers(features, self.widths, self.design.layers)

    def state(self) -> dict[str, Any]:
        """Everything that training changes."""
        return {"head": self.head.state_dict(), "optimiser": self.optimiser.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self.head.load_state_dict(state["head"])
        self.optimiser.load_state_dict(state["optimiser"])


def _adamw(parameters: Iterable[Tensor], rate: float, recipe: TaskRecipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, rate, recipe.betas, weight_decay=recipe.weight_decay)


def _adam(parameters: Iterable[Tensor], rate: float, recipe: TaskRecipe) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, rate, recipe.betas, weight_decay=recipe.weight_decay)


def _sgd(parameters: Iterable[Tensor], rate: float, recipe: TaskRecipe) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=recipe.weight_decay)


OPTIMISERS = {"adamw": _adamw, "adam": _adam, "sgd": _sgd}


def rate_share(recipe: TaskRecipe, done: float, warmup: float) -> float:
    """Share of the base learning rate after a share `done` of the fit, whose first share `warmup` is a linear warm-up.

    Both count images: batches differ in size, and torch's schedulers count steps.
    """
    if done < warmup:
        return done / warmup
    left = 1 - (done - warmup) / (1 - warmup) if warmup < 1 else 1.0
    shapes = {"constant": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}
    return shapes[recipe.schedule]


@dataclass(frozen=True)
class FitJob:
    """The training of the heads of one task. `key` names the fit, so that it can resume after an interruption.

    With an `attack`, the images of every batch are attacked through the encoder and the head in training, of which
    there is one then.
    """

    task: Task
    recipe: TaskRecipe
    widths: FeatureDims
    source: FeatureSet | Streamed
    count: int
    seed: int
    device: torch.device
    key: str = ""
    attack: InnerAttack | None = None

    def batches(self, order: Tensor, epoch: int, candidates: Sequence[Candidate]) -> Iterator[FeatureBatch]:
        """The batches of an epoch for heads in training."""
        name, size = self.task.name, self.recipe.batch_size
        if not isinstance(self.source, Streamed):
            return self.source.epoch(name, order, size, self.device)
        if self.attack is None:
            return self.source.epoch(name, order, size, self.device, epoch)
        (candidate,) = candidates
        change = partial(attacked_images, candidate, self.source, self.attack, self.seed)
        return self.source.epoch(name, order, size, self.device, epoch, change)


def attacked_images(
    candidate: Candidate, source: Streamed, attack: InnerAttack, seed: int, shown: ShownImages
) -> Tensor:
    """Images (B, 3, H, W) that raise the training loss of a head; each depends on itself, its id, epoch and seed."""

    def objective(images: Tensor, progress: float) -> Tensor:
        features = source.view.features(source.encoder, images)
        return candidate.loss(FeatureBatch(features, shown.target, shown.size))

    generators = [image_generator(seed, name, "head training", shown.epoch) for name in shown.ids]
    # In evaluation mode, as the head will be attacked, so that images of a batch do not depend on each other.
    with torch.enable_grad(), frozen(candidate.head):
        return ascend(objective, shown.images, generators, attack)


def fit_head(fit_job: FitJob, judge: Callable[[Sequence[Candidate]], list[float]], notify: Count) -> Fitted:
    """The candidate with the best held-out score; the first of equal ones.

    Args:
        judge: mean scores of candidates on held-out images.
    """
    candidates = train_heads(fit_job, notify)
    sign = 1 if fit_job.task.higher_is_better else -1
    found = [Fitted(c.head, c.rate, s, c.design) for c, s in zip(candidates, judge(candidates), strict=True)]
    # A head that diverged scores NaN, which must not win.
    return max(found, key=lambda f: -math.inf if math.isnan(f.held_out_score) else sign * f.held_out_score)


def train_heads(fit_job: FitJob, notify: Count = lambda done, total: None) -> list[Candidate]:
    """All candidates of the recipe, trained together on the same batches."""
    recipe = fit_job.recipe
    candidates = [
        Candidate(fit_job.task, fit_job.widths, design, rate, recipe, fit_job.seed)
        for design in recipe.designs
        for rate in recipe.learning_rates
    ]
    for candidate in candidates:
        candidate.start(fit_job.device)
    begin = load_progress(fit_job.key, fit_job.device) if fit_job.key else None
    for candidate, state in zip(candidates, begin.states if begin else [], strict=False):
        candidate.restore(state)
    with torch.enable_grad():
        _train(fit_job, candidates, begin or FitProgress(0, 0, []), notify)
    forget_progress(fit_job.key)
    for candidate in candidates:
        candidate.head.eval().requires_grad_(False)
    return candidates


def _train(fit_job: FitJob, candidates: Sequence[Candidate], begin: FitProgress, notify: Count) -> None:
    """Train all candidates until the number of images of the recipe is reached."""
    recipe, saved, seen = fit_job.recipe, time.monotonic(), begin.seen
    total = recipe.steps * recipe.batch_size if recipe.steps else recipe.epochs * fit_job.count
    warmup = min(1.0, recipe.warmup * recipe.batch_size / total)
    for epoch, order in enumerate(_orders(fit_job)):
        if epoch < begin.epoch:
            continue
        for part in fit_job.batches(order, epoch, candidates):
            share = rate_share(recipe, seen / total, warmup)
            for candidate in candidates:
                candidate.step(part, share)
            seen += len(part.target)
            if seen >= total:
                break
        # Images that were in no batch, such as a single last one, count as seen too.
        seen = max(seen, min(total, (epoch + 1) * fit_job.count))
        notify(min(seen, total), total)
        if seen >= total:
            return
        if fit_job.key and time.monotonic() - saved > SAVE_EVERY_SECONDS:
            save_progress(fit_job.key, FitProgress(epoch + 1, seen, [c.state() for c in candidates]))
            saved = time.monotonic()


def _orders(fit_job: FitJob) -> Iterator[Tensor]:
    """The random order of the images in each epoch."""
    generator = torch.Generator().manual_seed(fit_job.seed)
    while True:
        yield torch.randperm(fit_job.count, generator=generator)
