"""Heads fitted on frozen features: extracted once, learning rate chosen on held-out images, cached by content."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from robustprobe.datasets import Dataset, load_dataset
from robustprobe.datasets._base import batches
from robustprobe.encoders import Encoder
from robustprobe.spec import HeadSpec, code_digest, fingerprint
from robustprobe.tasks import Head, Model, Task, load_task
from robustprobe.tasks._base import fit_labels
from robustprobe.types import Features, Widths

Notify = Callable[[str, int, int], None]


class FeatureSet(NamedTuple):
    """Frozen features of N images, on the CPU: cls (N, D), patches (N, D, h, w), labels by task and their size."""

    cls: Tensor
    patches: Tensor
    targets: Mapping[str, Tensor]
    size: tuple[int, int]

    def part(self, index: Tensor, device: torch.device) -> Features:
        return Features(self.cls[index].to(device), self.patches[index].to(device))


class Fitted(NamedTuple):
    """A head, and how it was chosen: learning rate, and score on held-out images."""

    head: Head
    learning_rate: float
    held_out_score: float


class TrainData(NamedTuple):
    """The images heads learn from and the held-out images that choose among them."""

    train: Dataset
    val: Dataset

    def fingerprint(self) -> str:
        return fingerprint([self.train.digest(), self.val.digest()])


def train_data(name: str, root: Path, size: tuple[int, int], spec: HeadSpec) -> TrainData:
    """Train and held-out images of a dataset; a limit on train limits the held-out part to a quarter of it."""
    train = load_dataset(name, root=root, split="train", limit=spec.train_limit, size=size)
    val_limit = None if spec.train_limit is None else max(1, spec.train_limit // 4)
    return TrainData(train, load_dataset(name, root=root, split="val", limit=val_limit, size=size))


def head_fingerprint(encoder_digest: str, task: str, data: TrainData, spec: HeadSpec) -> str:
    """Names a head by everything it depends on: weights, task, data, recipe and code."""
    return fingerprint([encoder_digest, task, data.fingerprint(), spec.model_dump(mode="json"), code_digest()])


@torch.no_grad()
def extract(
    encoder: Encoder,
    data: Dataset,
    stride: int,
    device: torch.device,
    notify: Callable[[int, int], None] = lambda done, total: None,
) -> FeatureSet:
    """Features of every image, and label maps at 1/`stride` of the image resolution."""
    cls, patches, targets = [], [], []
    size = (max(1, data.size[0] // stride), max(1, data.size[1] // stride))
    for batch in batches(data, 64):
        features = encoder(batch.images.to(device))
        cls.append(features.cls.cpu())
        patches.append(features.patches.cpu())
        targets.append({task: fit_labels(target, size) for task, target in batch.targets.items()})
        notify(sum(len(c) for c in cls), len(data))
    labels = {task: torch.cat([t[task] for t in targets]) for task in targets[0]}
    return FeatureSet(torch.cat(cls), torch.cat(patches), labels, size)


def fit(task: Task, train: FeatureSet, val: FeatureSet, spec: HeadSpec, device: torch.device) -> Fitted:
    """The head of the learning rate that scores best on `val`."""
    sign = 1 if task.higher_is_better else -1
    candidates = []
    for rate in spec.learning_rates:
        head = fit_once(task, train, spec, rate, device)
        candidates.append(Fitted(head, rate, mean_score(task, head, val, device)))
    # A rate at which the head diverged scores NaN, which compares with nothing.
    return max(candidates, key=lambda c: -math.inf if math.isnan(c.held_out_score) else sign * c.held_out_score)


def fit_once(task: Task, train: FeatureSet, spec: HeadSpec, rate: float, device: torch.device) -> Head:
    """AdamW with a cosine schedule over shuffled minibatches, seeded."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        head = task.head(Widths(train.cls.shape[1], train.patches.shape[1]), spec.pooling).to(device)
    generator = torch.Generator().manual_seed(spec.seed)
    optimiser = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=1e-4)
    count = len(train.cls)
    starts = range(0, count, spec.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, spec.epochs * len(starts))
    labels = train.targets[task.name]
    for _ in range(spec.epochs):
        order = torch.randperm(count, generator=generator)
        for start in starts:
            index = order[start : start + spec.batch_size]
            if len(index) < 2 <= count:
                continue  # BatchNorm cannot learn from one image
            output = head(train.part(index, device), train.size)
            loss = task.training_loss(output, labels[index].to(device)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return head.eval().requires_grad_(False)


@torch.no_grad()
def mean_score(task: Task, head: Head, data: FeatureSet, device: torch.device) -> float:
    """Mean per-image score of a head."""
    scores = []
    for index in torch.arange(len(data.cls)).split(64):
        rows = task.rows(head(data.part(index, device), data.size), data.targets[task.name][index].to(device))
        scores.append(task.score(rows).double().cpu())
    return float(torch.cat(scores).nanmean())


def cache_folder() -> Path:
    """Where heads are kept: $ROBUSTPROBE_CACHE, or `robustprobe` in the user's cache folder."""
    if chosen := os.environ.get("ROBUSTPROBE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "robustprobe"


def load_cached(key: str, task: Task, widths: Widths, spec: HeadSpec) -> Fitted | None:
    """The head kept under a fingerprint, or None where there is none that can be read."""
    try:
        with safe_open(_cache_path(key), framework="pt") as stored:
            weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            facts: dict[str, Any] = json.loads((stored.metadata() or {})["fit"])
        head = task.head(widths, spec.pooling)
        head.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError):
        return None
    head.eval().requires_grad_(False)
    return Fitted(head, facts["learning_rate"], facts["held_out_score"])


def save_cached(key: str, fitted: Fitted) -> None:
    """Keep a head under its fingerprint, whole or not at all. A cache that cannot be written is left as it is."""
    path = _cache_path(key)
    facts = json.dumps({"learning_rate": fitted.learning_rate, "held_out_score": fitted.held_out_score})
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        weights = {k: v.cpu().contiguous() for k, v in fitted.head.state_dict().items()}
        save_file(weights, temporary, metadata={"fit": facts})
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _cache_path(key: str) -> Path:
    return cache_folder() / "heads" / f"{key}.safetensors"


def fit_probes(
    encoder: Encoder,
    data: TrainData,
    tasks: list[str],
    *,
    spec: HeadSpec,
    device: torch.device,
    notify: Notify = lambda stage, done, total: None,
) -> dict[str, tuple[Model, Fitted]]:
    """A model for each task of a dataset; features are extracted once, and only for heads that are not cached."""
    kinds = {name: load_task(name, data.train.labels[name]) for name in tasks}
    keys = {name: head_fingerprint(encoder.digest, name, data, spec) for name in tasks}
    found = {name: load_cached(keys[name], kinds[name], encoder.card.widths, spec) for name in tasks}
    missing = [name for name, fitted in found.items() if fitted is None]
    if missing:
        train = extract(encoder, data.train, spec.label_stride, device, partial(notify, "features"))
        val = extract(encoder, data.val, spec.label_stride, device)
        for place, name in enumerate(missing):
            notify(f"learning {name}", place, len(missing))
            found[name] = fitted = fit(kinds[name], train, val, spec, device)
            save_cached(keys[name], fitted)
    size = data.train.size
    return {n: (Model(encoder, f.head.to(device), kinds[n], size).eval(), f) for n, f in found.items() if f is not None}


def fit_seconds(task: Task, data: TrainData, encoder: Encoder, spec: HeadSpec, device: torch.device) -> float:
    """Estimated time to fit a head, from a short fit on random features."""
    size = data.train.size
    grid = size[0] // encoder.card.patch_size, size[1] // encoder.card.patch_size
    labels = max(1, size[0] // spec.label_stride), max(1, size[1] // spec.label_stride)
    count, widths = spec.batch_size, encoder.card.widths
    target = torch.zeros(count, dtype=torch.int64) if task.name == "classification" else torch.ones(count, *labels)
    target = target if task.name == "depth" else target.long()
    fake = FeatureSet(
        torch.randn(count, widths.cls), torch.randn(count, widths.patch, *grid), {task.name: target}, labels
    )
    short = spec.model_copy(update={"epochs": 10})  # one step an epoch
    fit_once(task, fake, short, spec.learning_rates[0], device)
    start = time.monotonic()
    fit_once(task, fake, short, spec.learning_rates[0], device)
    steps = len(spec.learning_rates) * spec.epochs * len(data.train) / count
    return steps * (time.monotonic() - start) / short.epochs
