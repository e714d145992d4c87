"""The loop that fits heads: all candidates of a recipe learn from the same features, and the best on `val` is kept."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustprobe.core.types import FeatureDims, Features, HeadDesign
from robustprobe.core.views import last_layers
from robustprobe.losses.depth import gradient_matching
from robustprobe.probing.cache import FitProgress, forget_progress, load_progress, save_progress
from robustprobe.probing.features import FeatureBatch, FeatureSet, Streamed
from robustprobe.tasks import Head, Task, TaskRecipe

# Between two saved states of a fit that may be interrupted.
SAVE_EVERY_SECONDS = 60.0
Count = Callable[[int, int], None]


class Fitted(NamedTuple):
    """A head, and how it was chosen: learning rate, score on held-out images, and what it reads.

    `knn_head` answers by the `knn` nearest train images, where the task has such a head.
    """

    head: Head
    learning_rate: float
    held_out_score: float
    design: HeadDesign = HeadDesign()
    knn_head: Head | None = None
    knn: int = 0


class Candidate:
    """One head in the making: a design at a learning rate."""

    def __init__(self, task: Task, widths: FeatureDims, design: HeadDesign, rate: float, recipe: TaskRecipe, seed: int):
        self.task, self.widths, self.design, self.rate, self.recipe = task, widths, design, rate, recipe
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = task.head(FeatureDims(widths.cls * design.layers, widths.patch * design.layers), design)

    def start(self, device: torch.device) -> None:
        """Get ready to learn."""
        self.head.to(device)
        self.optimiser = OPTIMISERS[self.recipe.optimiser](self.head.parameters(), self.rate, self.recipe)

    def step(self, part: FeatureBatch, share: float) -> None:
        """One step, at `share` of the base learning rate."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * share
        output = self.head(self.read(part.features), part.size)
        loss = self.task.training_loss(output, part.target)
        if self.recipe.gradient_weight:
            loss = loss + self.recipe.gradient_weight * gradient_matching(output, part.target)
        self.optimiser.zero_grad()
        loss.mean().backward()
        if self.recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.head.parameters(), self.recipe.clip)
        self.optimiser.step()

    def read(self, features: Features) -> Features:
        """The layers the head reads, of those there are."""
        return last_layers(features, self.widths, self.design.layers)

    def state(self) -> dict[str, Any]:
        """Everything that changes while it learns."""
        return {"head": self.head.state_dict(), "optimiser": self.optimiser.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
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
    """What heads of one task learn from. `key` names the fit, so that it can go on where it was interrupted."""

    task: Task
    recipe: TaskRecipe
    widths: FeatureDims
    source: FeatureSet | Streamed
    count: int
    seed: int
    device: torch.device
    key: str = ""

    def batches(self, order: Tensor, epoch: int) -> Iterator[FeatureBatch]:
        """The batches of an epoch."""
        name, size = self.task.name, self.recipe.batch_size
        if isinstance(self.source, Streamed):
            return self.source.epoch(name, order, size, self.device, epoch)
        return self.source.epoch(name, order, size, self.device)


def fit_head(fit_job: FitJob, judge: Callable[[Sequence[Candidate]], list[float]], notify: Count) -> Fitted:
    """The candidate that scores best; where several score the same, the first.

    Args:
        judge: mean scores of candidates on held-out images.
    """
    candidates = train_heads(fit_job, notify)
    sign = 1 if fit_job.task.higher_is_better else -1
    found = [Fitted(c.head, c.rate, s, c.design) for c, s in zip(candidates, judge(candidates), strict=True)]
    # A rate at which the head diverged scores NaN, which compares with nothing.
    return max(found, key=lambda f: -math.inf if math.isnan(f.held_out_score) else sign * f.held_out_score)


def train_heads(fit_job: FitJob, notify: Count = lambda done, total: None) -> list[Candidate]:
    """All candidates of the recipe, having learnt together from the same batches."""
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
        _teach(fit_job, candidates, begin or FitProgress(0, 0, []), notify)
    forget_progress(fit_job.key)
    for candidate in candidates:
        candidate.head.eval().requires_grad_(False)
    return candidates


def _teach(fit_job: FitJob, candidates: Sequence[Candidate], begin: FitProgress, notify: Count) -> None:
    """Epoch after epoch, until as many images have passed as the recipe says."""
    recipe, saved, seen = fit_job.recipe, time.monotonic(), begin.seen
    total = recipe.steps * recipe.batch_size if recipe.steps else recipe.epochs * fit_job.count
    warmup = min(1.0, recipe.warmup * recipe.batch_size / total)
    for epoch, order in enumerate(_orders(fit_job)):
        if epoch < begin.epoch:
            continue
        for part in fit_job.batches(order, epoch):
            share = rate_share(recipe, seen / total, warmup)
            for candidate in candidates:
                candidate.step(part, share)
            seen += len(part.target)
            if seen >= total:
                break
        # Images that no batch held, such as a last one that would have been alone.
        seen = max(seen, min(total, (epoch + 1) * fit_job.count))
        notify(min(seen, total), total)
        if seen >= total:
            return
        if fit_job.key and time.monotonic() - saved > SAVE_EVERY_SECONDS:
            save_progress(fit_job.key, FitProgress(epoch + 1, seen, [c.state() for c in candidates]))
            saved = time.monotonic()


def _orders(fit_job: FitJob) -> Iterator[Tensor]:
    """The order of the images in every epoch."""
    generator = torch.Generator().manual_seed(fit_job.seed)
    while True:
        yield torch.randperm(fit_job.count, generator=generator)
