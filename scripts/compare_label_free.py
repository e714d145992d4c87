"""Compare label-free objectives with task-specific attacks on classification, segmentation and depth.

    python scripts/compare_label_free.py                                # two encoders on generated scenes
    python scripts/compare_label_free.py --data photos --data-root ../shared/data

One adversarial image is made per image and judged by the heads of all its tasks. `share` is the damage to the task's
metric over that of the task-specific sign-gradient attack with as many steps, at the same eps. Intervals are
95 % paired bootstraps over images, numerator and denominator together; `mean` averages the shares of the three tasks.

Objectives called `surrogate...` attack surrogate heads: segmentation heads of the position in the image and of clusters
of colour and position, fitted on unlabelled images with the recipe of real heads. Their labels in the attack are their
own predictions on the clean image. `surrogate`, as the attack of that name, fits them on generated scenes, whatever the
data, so that it needs the encoder and the image alone; `surrogate-unlabelled` fits them on train images of the dataset.

Measured on one shared core: an objective takes 10 to 25 s for 100 scenes, and 15 to 35 s for 48 small and twice 16
large photographs. The whole comparison takes about eight minutes for scenes and fifteen for photos with cached
heads; fitting these takes two and four minutes more.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

import robustprobe
from robustprobe import probing
from robustprobe.attacks import Victim
from robustprobe.attacks._apgd import apgd
from robustprobe.attacks._phases import merged
from robustprobe.attacks._search import Entries, LossValues, Objective, PerImageRandom, Search
from robustprobe.attacks._sign_gradient import sign_gradient
from robustprobe.attacks._task_objectives import task_objective
from robustprobe.core.resize import resized
from robustprobe.core.sizes import parse_eps
from robustprobe.core.threat import Linf
from robustprobe.core.types import Features, LabelSpace
from robustprobe.datasets import batches, find_dataset, load_dataset
from robustprobe.encoders import Encoder
from robustprobe.losses.embedding import class_distance, embedding_distance, patch_distance
from robustprobe.losses.segmentation import segmentation_pixels, segpgd
from robustprobe.metrics.dense import mean_iou
from robustprobe.probing.surrogate_heads import RECIPE, SURROGATE_TASKS, SurrogateTask, kmeans, surrogate_labels
from robustprobe.tasks import Head, Model, fit_labels, load_task

TASK_LOSSES = {"classification": "ce", "segmentation": "segpgd", "depth": "silog"}
OPTIMISERS = {"sign": sign_gradient, "apgd": apgd}
SETS = {
    "scenes": (("bundled:scenes", "bundled:scenes-deacl"), ("scenes",)),
    "photos": (("bundled:photos", "bundled:photos-deacl"), ("cifar10", "camvid", "nyu_depth_v2")),
}
TRAIN_LIMIT = {"scenes": 1200}
BANK, GENERATED, CHUNK = 256, 192, 64
RESAMPLES = 1000
Loss = Callable[[Features, Features, Entries, float], Tensor]
Rows = Mapping[str, Mapping[str, NDArray[Any]]]


class Setting(NamedTuple):
    """An encoder, the attacked images of one dataset, the models that judge them, and unlabelled train images."""

    encoder: Encoder
    ids: tuple[str, ...]
    images: Tensor
    targets: Mapping[str, Tensor]
    models: Mapping[str, Model]
    unlabelled: Tensor


class Statistics(NamedTuple):
    """Means and deviations of natural class tokens (D,) and patch tokens (D,), and a bank of standardised ones."""

    cls_mean: Tensor
    cls_std: Tensor
    mean: Tensor
    std: Tensor
    cls_bank: Tensor
    bank: Tensor

    def standardised(self, features: Features) -> tuple[Tensor, Tensor]:
        """Class tokens (B, D) and patch tokens (B, T, D)."""
        return (features.cls - self.cls_mean) / self.cls_std, (tokens(features) - self.mean) / self.std


def tokens(features: Features) -> Tensor:
    """Patch tokens (B, T, D)."""
    return features.patches.flatten(2).transpose(1, 2)


def prepare(encoder: Encoder, dataset: str, options: argparse.Namespace) -> Setting:
    """Heads, attacked images and unlabelled train images of a dataset."""
    found = find_dataset(dataset, root=options.data_root)
    size = found.fit_size(encoder.card.input_size, encoder.card.patch_size)
    limit = TRAIN_LIMIT.get(dataset)
    models = {
        task: robustprobe.fit_probe(encoder, dataset, task=task, root=options.data_root, train_limit=limit)
        for task in TASK_LOSSES
        if task in found.labels
    }
    # Dense photographs have three times the tokens: fewer of them.
    dense = max(1, round(size[0] * size[1] / (encoder.card.input_size[0] * encoder.card.input_size[1])))
    data = load_dataset(dataset, root=options.data_root, split=options.split, limit=options.limit // dense, size=size)
    (batch,) = batches(data, len(data))
    train = load_dataset(dataset, root=options.data_root, split="train", limit=BANK // dense, size=size)
    unlabelled = torch.cat([b.images for b in batches(train, CHUNK)])
    return Setting(encoder, tuple(batch.ids), batch.images, batch.targets, models, unlabelled)


@torch.no_grad()
def features_of(encoder: Encoder, images: Tensor) -> Features:
    """Features of any number of images."""
    parts = [encoder(part) for part in images.split(CHUNK)]
    return Features(torch.cat([f.cls for f in parts]), torch.cat([f.patches for f in parts]))


def statistics(setting: Setting) -> Statistics:
    """Natural variation of features over the unlabelled images."""
    features = features_of(setting.encoder, setting.unlabelled)
    flat = tokens(features).flatten(0, 1)
    flat = flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))[:4096]]
    cls_std, std = features.cls.std(0) + 1e-6, flat.std(0) + 1e-6
    cls_mean, mean = features.cls.mean(0), flat.mean(0)
    cls_bank = (features.cls - cls_mean) / cls_std
    return Statistics(cls_mean, cls_std, mean, std, cls_bank, (flat - mean) / std)


# --- distances


def l2(setting: Setting, natural: Statistics) -> Loss:
    """EmbedAttack: squared L2 of the class token and of the patch tokens, mean over tokens."""
    return lambda now, clean, entries, progress: embedding_distance(now, clean)


def l2_class(setting: Setting, natural: Statistics) -> Loss:
    """Squared L2 of the class token."""
    return lambda now, clean, entries, progress: class_distance(now, clean)


def cosine_standardised(setting: Setting, natural: Statistics) -> Loss:
    """Cosine distance of class token and patch tokens, standardised with natural statistics."""

    def loss(now: Features, clean: Features, entries: Entries, progress: float) -> Tensor:
        (a, p), (b, q) = natural.standardised(now), natural.standardised(clean)
        return 2 - F.cosine_similarity(a, b, dim=-1) - F.cosine_similarity(p, q, dim=-1).mean(1)

    return loss


# --- contrast, pseudo-classes, random heads


def contrast(setting: Setting, natural: Statistics, temperature: float = 0.1) -> Loss:
    """InfoNCE of each token against its own clean self and 1,024 natural tokens, by squared distance; class too."""
    bank, cls_bank = natural.bank[:1024], natural.cls_bank

    def confusion(now: Tensor, clean: Tensor, others: Tensor) -> Tensor:
        scale = temperature * now.shape[-1]
        own = -(now - clean).square().sum(-1, keepdim=True) / scale
        apart = now.square().sum(-1, keepdim=True) + others.square().sum(-1) - 2 * now @ others.T
        logits: Tensor = torch.cat([own, -apart / scale], -1)
        return logits.logsumexp(-1) - own[..., 0]

    def loss(now: Features, clean: Features, entries: Entries, progress: float) -> Tensor:
        (a, p), (b, q) = natural.standardised(now), natural.standardised(clean)
        return confusion(a, b, cls_bank) + confusion(p, q, bank).mean(1)

    return loss


def pseudo_classes(setting: Setting, natural: Statistics, count: int = 30, heads: int = 3) -> Loss:
    """Cross-entropy of linear heads on k-means clusters of class and patch tokens, against clean predictions."""
    pairs = [
        (_cluster_head(natural.cls_bank, count, seed), _cluster_head(natural.bank, count, seed))
        for seed in range(heads)
    ]

    def loss(now: Features, clean: Features, entries: Entries, progress: float) -> Tensor:
        (a, p), (b, q) = natural.standardised(now), natural.standardised(clean)
        total = torch.zeros(len(a))
        for on_class, on_tokens in pairs:
            total = total + F.cross_entropy(on_class(a), on_class(b).argmax(-1), reduction="none")
            wrong = F.cross_entropy(on_tokens(p).flatten(0, 1), on_tokens(q).argmax(-1).flatten(), reduction="none")
            total = total + wrong.view(len(a), -1).mean(1)
        return total

    return loss


def random_heads(setting: Setting, natural: Statistics, heads: int = 20, classes: int = 10) -> Loss:
    """Mean cross-entropy of random linear classifiers on standardised tokens, against their clean predictions."""
    generator = torch.Generator().manual_seed(1)
    width = len(natural.mean)
    on_class, on_tokens = (3 * torch.randn(width, heads * classes, generator=generator) / width**0.5 for _ in range(2))

    def wrong(now: Tensor, clean: Tensor, weight: Tensor) -> Tensor:
        shape = (*now.shape[:-1], heads, classes)
        answers = (clean @ weight).reshape(shape).argmax(-1, keepdim=True)
        chances = (now @ weight).reshape(shape).log_softmax(-1)
        return -chances.gather(-1, answers).flatten(1).mean(1)

    def loss(now: Features, clean: Features, entries: Entries, progress: float) -> Tensor:
        (a, p), (b, q) = natural.standardised(now), natural.standardised(clean)
        return wrong(a, b, on_class) + wrong(p, q, on_tokens)

    return loss


def _cluster_head(points: Tensor, count: int, seed: int) -> Callable[[Tensor], Tensor]:
    """A linear classifier of the k-means clusters of points."""
    labels = torch.cdist(points, kmeans(points, count, seed)).argmin(1)
    weight, bias = torch.zeros(points.shape[1], count), torch.zeros(count)
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    optimiser = torch.optim.AdamW(parameters, lr=0.05, weight_decay=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        some = torch.randint(len(points), (512,), generator=generator)
        wrong = F.cross_entropy(points[some] @ weight + bias, labels[some])
        optimiser.zero_grad()
        torch.autograd.backward(wrong)
        optimiser.step()
    fixed, offset = weight.detach(), bias.detach()
    return lambda values: values @ fixed + offset


# --- surrogate heads


def surrogate_head(encoder: Encoder, images: Tensor, features: Features, kind: SurrogateTask) -> Head:
    """A segmentation head of classes made from images alone, fitted as real heads are, at one learning rate."""
    labels = surrogate_labels(kind, images)
    task = load_task("segmentation", LabelSpace(classes=tuple(map(str, range(kind.classes)))))
    size = (labels.shape[1], labels.shape[2])
    data = probing.FeatureSet(features.cls, features.patches, {"segmentation": labels}, size)
    fit_job = probing.FitJob(task, RECIPE, encoder.card.widths, data, len(images), 0, torch.device("cpu"))
    return probing.train_heads(fit_job)[0].head


def surrogate_loss(setting: Setting, images: Tensor, parts: tuple[SurrogateTask, ...]) -> Loss:
    """Mean SegPGD loss of surrogate heads, against their own predictions on the clean image."""
    features = features_of(setting.encoder, images)
    heads = [surrogate_head(setting.encoder, images, features, part) for part in parts]
    size = (setting.images.shape[-2] // 4, setting.images.shape[-1] // 4)

    def loss(now: Features, clean: Features, entries: Entries, progress: float) -> Tensor:
        total = torch.zeros(len(now.cls))
        for head in heads:
            with torch.no_grad():
                answers = head(clean, size).argmax(1)
            total = total + segpgd(segmentation_pixels(head(now, size), answers, -1), progress) / len(heads)
        return total

    return loss


def generated(setting: Setting) -> Tensor:
    """Generated scenes at the size of the attacked images."""
    data = load_dataset("scenes", split="train", limit=GENERATED)
    images = torch.cat([batch.images for batch in batches(data, CHUNK)])
    size = (setting.images.shape[-2], setting.images.shape[-1])
    return resized(images, size)


def surrogate_rows(setting: Setting, natural: Statistics) -> Loss:
    """One surrogate head: five rows."""
    return surrogate_loss(setting, setting.unlabelled, (SurrogateTask("rows", 5),))


def surrogate_unlabelled(setting: Setting, natural: Statistics) -> Loss:
    """Six surrogate heads, fitted on unlabelled train images."""
    return surrogate_loss(setting, setting.unlabelled, SURROGATE_TASKS)


def surrogate_and_class(setting: Setting, natural: Statistics) -> Loss:
    """`surrogate-unlabelled` plus the cosine distance of the standardised class token."""
    dense = surrogate_unlabelled(setting, natural)

    def loss(now: Features, clean: Features, entries: Entries, progress: float) -> Tensor:
        (a, _), (b, _) = natural.standardised(now), natural.standardised(clean)
        return dense(now, clean, entries, progress) + 1 - F.cosine_similarity(a, b, dim=-1)

    return loss


def surrogate(setting: Setting, natural: Statistics) -> Loss:
    """Six surrogate heads, fitted on generated scenes."""
    return surrogate_loss(setting, generated(setting), SURROGATE_TASKS)


def l2_and_surrogate(setting: Setting, natural: Statistics) -> Loss:
    """Sum of the logarithms of `l2` and `surrogate`, so that relative changes count."""
    dense = surrogate(setting, natural)

    def loss(now: Features, clean: Features, entries: Entries, progress: float) -> Tensor:
        moved = embedding_distance(now, clean)
        return (moved + 1e-6).log() + (dense(now, clean, entries, progress) + 0.1).log()

    return loss


def geometric(setting: Setting, natural: Statistics) -> Loss:
    """Sum of the logarithms of the class token's distance, the patch tokens' distance and `surrogate`."""
    dense = surrogate(setting, natural)

    def loss(now: Features, clean: Features, entries: Entries, progress: float) -> Tensor:
        moved = (class_distance(now, clean) + 1e-6).log() + (patch_distance(now, clean) + 1e-6).log()
        return moved + (dense(now, clean, entries, progress) + 0.1).log()

    return loss


OBJECTIVES: dict[str, Callable[[Setting, Statistics], Loss]] = {
    "l2": l2,
    "l2-cls": l2_class,
    "cosine-standardised": cosine_standardised,
    "contrast": contrast,
    "pseudo-classes": pseudo_classes,
    "random-heads": random_heads,
    "surrogate-rows": surrogate_rows,
    "surrogate-unlabelled": surrogate_unlabelled,
    "surrogate-and-class": surrogate_and_class,
    "surrogate": surrogate,
    "l2-and-surrogate": l2_and_surrogate,
    "geometric": geometric,
}


# --- attack and judge


def label_free(setting: Setting, loss: Loss, images: Tensor) -> Objective:
    """A loss of features as an objective."""
    clean = features_of(setting.encoder, images)

    def judge(x: Tensor, entries: Entries, progress: float) -> LossValues:
        now = setting.encoder(x)
        origin = Features(clean.cls[entries.rows], clean.patches[entries.rows])
        value = loss(now, origin, entries, progress)
        with torch.no_grad():
            # At progress 1 SegPGD weighs right and wrong pixels alike, so that steps can be compared.
            step_loss = loss(now, origin, entries, 1.0)
        return LossValues(value, step_loss, step_loss, torch.zeros_like(value, dtype=torch.bool))

    return judge


def task_specific(setting: Setting, task: str, images: Tensor, first: int) -> Objective:
    """The loss of the task-specific attack."""
    model = setting.models[task]
    size = (images.shape[-2], images.shape[-1])
    labels = fit_labels(setting.targets[task][first : first + len(images)], size)
    victim = Victim(model, labels, model.task.space, model.task.attack_losses, task)
    return task_objective(victim, TASK_LOSSES[task], images)


def perturbed(setting: Setting, objective: Callable[[Tensor, int], Objective], options: argparse.Namespace) -> Tensor:
    """Adversarial images; of all restarts the iterate with the largest objective."""
    found, eps = [], parse_eps(options.eps)
    for first in range(0, len(setting.images), CHUNK):
        images, ids = setting.images[first : first + CHUNK], setting.ids[first : first + CHUNK]
        search = Search(Linf(eps), objective(images, first), options.steps, eps / 4)
        randomness, rows, result = PerImageRandom(options.seed, ids, "compare"), torch.arange(len(images)), None
        for run in range(options.restarts):
            entries = Entries(rows, torch.full_like(rows, run))
            part = OPTIMISERS[options.optimiser](search, images, entries, randomness, None)
            result = part if result is None else merged(result, part, rows, False)
        assert result is not None
        found.append(result.images)
    return torch.cat(found)


@torch.no_grad()
def judged(setting: Setting, images: Tensor) -> Rows:
    """Rows of every head of the setting on images."""
    features = features_of(setting.encoder, images)
    rows = {}
    for name, model in setting.models.items():
        columns = model.task.rows(model.head(features, model.size), setting.targets[name])
        rows[name] = {column: values.numpy() for column, values in columns.items()}
    return rows


def metric(task: str, rows: Mapping[str, NDArray[Any]], weights: NDArray[Any]) -> NDArray[np.float64]:
    """The task's metric for weights of images (..., N)."""
    if task == "segmentation":
        return mean_iou(*(weights @ rows[c].astype(float) for c in ("intersection", "predicted", "labelled")))
    values = rows["correct" if task == "classification" else "rmse"].astype(float)
    return np.asarray(weights @ values / weights.sum(-1))


class Line(NamedTuple):
    """One objective on one task: the metric, and the share (1 + resamples,) of the task-specific attack's damage."""

    value: float
    share: NDArray[np.float64]


def compared(task: str, clean: Rows, own: Rows, found: Rows) -> Line:
    """Metric and share; the first of `share` is over all images, the others over resamples."""
    count = len(next(iter(found[task].values())))
    randomness = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    weights = np.concatenate([np.ones((1, count)), randomness])
    before, worst, after = (metric(task, rows[task], weights) for rows in (clean, own, found))
    with np.errstate(divide="ignore", invalid="ignore"):
        return Line(float(after[0]), (before - after) / (before - worst))


def interval(share: NDArray[np.float64]) -> str:
    low, high = np.nanquantile(share[1:], [0.025, 0.975])
    return f"{share[0]:+.2f} [{low:+.2f}, {high:+.2f}]"


def table(encoder: Encoder, settings: list[Setting], options: argparse.Namespace) -> None:
    """Print one row per objective, tasks side by side."""
    sources = [judged(setting, setting.images) for setting in settings]
    own: list[dict[str, Rows]] = []
    for setting, clean in zip(settings, sources, strict=True):
        found = {}
        for task in setting.models:
            images = perturbed(setting, lambda x, first, p=setting, t=task: task_specific(p, t, x, first), options)  # type: ignore[misc]
            found[task] = judged(setting, images)
        own.append(found)
        for task in setting.models:
            ones = np.ones(len(setting.images))
            scores = {name: float(metric(task, rows[task], ones)) for name, rows in {"clean": clean, **found}.items()}
            shown = ", ".join(f"{n if n == 'clean' else 'attack on ' + n} {v:.3f}" for n, v in scores.items())
            print(f"{encoder.card.name} {task}, n={len(setting.images)}: {shown}", flush=True)
    naturals = [statistics(setting) for setting in settings]
    for name in options.objective or OBJECTIVES:
        start = time.monotonic()
        lines: dict[str, Line] = {}
        for setting, natural, clean, known in zip(settings, naturals, sources, own, strict=True):
            loss = OBJECTIVES[name](setting, natural)
            attacked = perturbed(setting, lambda x, _, p=setting, f=loss: label_free(p, f, x), options)  # type: ignore[misc]
            rows = judged(setting, attacked)
            lines |= {task: compared(task, clean, known[task], rows) for task in setting.models}
        mean = np.mean([line.share for line in lines.values()], axis=0)
        cells = " | ".join(f"{task[:5]} {line.value:.3f} {interval(line.share)}" for task, line in lines.items())
        seconds = time.monotonic() - start
        print(f"{encoder.card.name} | {name} | {cells} | mean {interval(mean)} | {seconds:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=SETS, default="scenes")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument(
        "--encoder", action="append", help="instead of the two bundled ones; can be given several times"
    )
    parser.add_argument("--dataset", action="append", help="instead of all of --data; can be given several times")
    parser.add_argument(
        "--objective", action="append", choices=OBJECTIVES, help="instead of all; can be given several times"
    )
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--limit", type=int, default=64, help="images of 64 pixels; a third of it for larger ones")
    parser.add_argument("--eps", default="8/255")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--optimiser", choices=OPTIMISERS, default="sign")
    parser.add_argument("--restarts", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    encoders, sets = SETS[options.data]
    for name in options.encoder or encoders:
        encoder = robustprobe.load_encoder(name)
        settings = [prepare(encoder, dataset, options) for dataset in options.dataset or sets]
        table(encoder, settings, options)


if __name__ == "__main__":
    main()
