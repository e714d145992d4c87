"""Attacks written without `robustprobe.attacks`, against the program's own on the same images, heads and eps.

    python benchmarks/independent_attacks.py --encoder bundled:photos-anyhead --dataset cifar10 --limit 60 --eps 8/255

Plain sign steps with momentum (Dong et al. 2018) in torch. Classification: cross-entropy, margin, and the logit
difference to each other class in turn. Segmentation: mask-CE, plain and class-balanced, and a masked margin; which
image counts is chosen greedily for the mIoU of the set, in random orders. Depth: RMSE, nearer, farther, and RMSE
continued from the worst of them. Heads come from `fit_probe`, and each image is judged by the task's own rows.
"""

import argparse
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

import robustprobe as rp
from robustprobe.core.sizes import parse_eps
from robustprobe.datasets import batches, load_dataset
from robustprobe.tasks import Model

TASKS = {"cifar10": "classification", "camvid": "segmentation", "nyu_depth_v2": "depth"}
PROGRAM = {
    "classification": ("pgd", "apgd", "ensemble"),
    "segmentation": ("segpgd", "sea", "ensemble"),
    "depth": ("depthpgd", "apgd:rmse", "ensemble"),
}
COUNTS = ("intersection", "predicted", "labelled")
RESAMPLES, ORDERS, SWEEPS = 5000, 5, 20
Loss = Callable[[Tensor], Tensor]
Rows = dict[str, NDArray[Any]]


class Victim(NamedTuple):
    """A model with images (N, 3, H, W), their labels, the labels at the size of the images, and eps."""

    model: Model
    images: Tensor
    targets: Tensor
    labels: Tensor
    eps: float


def climb(victim: Victim, loss: Loss, keeps: Sequence[Loss], steps: int, start: Tensor | None = None) -> list[Tensor]:
    """Sign steps with momentum 1 and a cosine schedule from eps/2; for each of `keeps` its largest iterate."""
    clean, eps = victim.images, victim.eps
    low, high = (clean - eps).clamp(min=0), (clean + eps).clamp(max=1)
    noise = (torch.rand(clean.shape, generator=torch.Generator().manual_seed(steps)) * 2 - 1) * eps
    now = (clean + noise if start is None else start).clamp(low, high)
    velocity = torch.zeros_like(clean)
    best = [now.clone() for _ in keeps]
    reached = [torch.full((len(clean),), -math.inf) for _ in keeps]
    for step in range(steps + 1):
        now.requires_grad_(True)
        output = victim.model(now)
        (gradient,) = torch.autograd.grad(loss(output).sum(), now)
        now = now.detach()
        for place, keep in enumerate(keeps):
            value = keep(output.detach())
            better = value > reached[place]
            reached[place] = torch.where(better, value, reached[place])
            best[place] = torch.where(better.view(-1, 1, 1, 1), now, best[place])
        velocity = velocity + gradient / gradient.abs().flatten(1).sum(1).clamp(min=1e-30).view(-1, 1, 1, 1)
        size = eps * max(0.02, 0.25 * (1 + math.cos(math.pi * step / steps)))
        now = (now + size * velocity.sign()).clamp(low, high)
    return best


# --- classification


def attack_classifier(victim: Victim, steps: float) -> list[Tensor]:
    """Images that are still right go from one attack to the next."""
    found, everything = victim.images.clone(), torch.arange(len(victim.images))
    classes = victim.model(victim.images[:1]).shape[1]
    plans: list[tuple[Callable[[Victim], Loss], int]] = [(_cross_entropy, 60), (_margin, 80)]
    plans += [(_towards(rank), 50) for rank in range(1, classes)] + [(_margin, 100)]
    for make, count in plans:
        with torch.no_grad():
            left = everything[victim.model(found).argmax(1) == victim.labels]
        if not len(left):
            break
        some = victim._replace(images=victim.images[left], targets=victim.targets[left], labels=victim.labels[left])
        (found[left],) = climb(some, make(some), [_margin(some)], max(2, round(count * steps)))
    return [found]


def _cross_entropy(victim: Victim) -> Loss:
    return lambda logits: F.cross_entropy(logits, victim.labels, reduction="none")


def _margin(victim: Victim) -> Loss:
    def loss(logits: Tensor) -> Tensor:
        own = F.one_hot(victim.labels, logits.shape[1]).bool()
        return logits.masked_fill(own, -math.inf).amax(1) - logits.gather(1, victim.labels[:, None])[:, 0]

    return loss


def _towards(rank: int) -> Callable[[Victim], Loss]:
    """The logit of the class that stands `rank` places after the right one, over that of the right one."""

    def make(victim: Victim) -> Loss:
        def loss(logits: Tensor) -> Tensor:
            aim = (victim.labels + rank) % logits.shape[1]
            return (logits.gather(1, aim[:, None]) - logits.gather(1, victim.labels[:, None]))[:, 0]

        return loss

    return make


# --- segmentation


def attack_segmenter(victim: Victim, steps: float) -> list[Tensor]:
    """From each loss the iterate with most wrong pixels and the one with most wrong pixels by class weight."""
    model = victim.model
    space, known = model.task.space, victim.labels != model.task.space.ignore_index
    labels = torch.where(known, victim.labels, 0)
    pixels = torch.bincount(labels[known], minlength=len(space.classes)).double()
    weight = torch.where(pixels > 0, pixels.sum() / pixels.clamp(min=1), 0.0).float()[labels] * known

    def wrong(by: Tensor) -> Loss:
        return lambda logits: ((logits.argmax(1) != labels) * by).flatten(1).sum(1) / by.flatten(1).sum(1)

    def masked(by: Tensor) -> Loss:
        def loss(logits: Tensor) -> Tensor:
            right = (logits.argmax(1) == labels) * by
            return (F.cross_entropy(logits, labels, reduction="none") * right).flatten(1).sum(1)

        return loss

    def margin(logits: Tensor) -> Tensor:
        own = F.one_hot(labels, logits.shape[1]).movedim(-1, 1).bool()
        gap = logits.masked_fill(own, -math.inf).amax(1) - logits.gather(1, labels[:, None])[:, 0]
        return (gap.clamp(max=0) * weight).flatten(1).sum(1)

    keeps = [wrong(known.float()), wrong(weight)]
    plans = [(masked(weight), 100), (masked(known.float()), 60), (margin, 60)]
    return [made for loss, count in plans for made in climb(victim, loss, keeps, max(2, round(count * steps)))]


def mean_iou(sums: NDArray[Any]) -> NDArray[Any]:
    """MIoU of counts (3, ..., C): over classes that occur in labels or predictions."""
    intersection, union = sums[0], sums[1] + sums[2] - sums[0]
    iou = np.divide(intersection, union, out=np.full(union.shape, np.nan), where=union > 0)
    return np.asarray(np.nanmean(iou, -1))


def greedy(candidates: Sequence[Rows]) -> Rows:
    """Rows of the choice of candidates, image by image, with which the mIoU of the set is lowest."""
    counts = np.stack([np.stack([rows[c] for rows in candidates]).astype(float) for c in COUNTS])
    images, generator = counts.shape[2], np.random.default_rng(0)
    start = int(mean_iou(counts.sum(2)).argmin())
    best: tuple[float, NDArray[Any]] = (math.inf, np.zeros(images, dtype=int))
    for _ in range(ORDERS):
        choice = np.full(images, start)
        for image in [i for _ in range(SWEEPS) for i in generator.permutation(images)]:
            rest = counts[:, choice, np.arange(images)].sum(1) - counts[:, choice[image], image]
            choice[image] = int(mean_iou(rest[:, None] + counts[:, :, image]).argmin())
        value = float(mean_iou(counts[:, choice, np.arange(images)].sum(1)))
        best = min(best, (value, choice), key=lambda found: found[0])
    chosen = counts[:, best[1], np.arange(images)]
    return dict(zip(COUNTS, chosen, strict=True))


# --- depth


def attack_depth(victim: Victim, steps: float) -> list[Tensor]:
    known = (victim.labels > 0).float()

    def rmse(depth: Tensor) -> Tensor:
        wrong = ((depth - victim.labels).square() * known).flatten(1).sum(1) / known.flatten(1).sum(1)
        return (wrong + 1e-12).sqrt()

    def mean(depth: Tensor) -> Tensor:
        return (depth * known).flatten(1).sum(1) / known.flatten(1).sum(1)

    plans: list[tuple[Loss, int]] = [(rmse, 80), (lambda depth: -mean(depth), 60), (mean, 60)]
    found = [climb(victim, loss, [rmse], max(2, round(count * steps)))[0] for loss, count in plans]
    with torch.no_grad():
        reached = torch.stack([rmse(victim.model(images)) for images in found]).argmax(0)
    worst = torch.stack(found)[reached, torch.arange(len(reached))]
    return [*found, climb(victim, rmse, [rmse], max(2, round(80 * steps)), worst)[0]]


ATTACKS = {"classification": attack_classifier, "segmentation": attack_segmenter, "depth": attack_depth}


# --- judge and compare


@torch.no_grad()
def judged(victim: Victim, images: Tensor) -> Rows:
    """The task's rows of images, after a look at the ball and the box."""
    assert float((images - victim.images).abs().max()) <= victim.eps + 1e-6
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    rows = victim.model.task.rows(victim.model(images), victim.targets)
    return {name: values.numpy() for name, values in rows.items()}


def pooled(task: str, candidates: Sequence[Rows]) -> Rows:
    """The worst candidate of each image; for segmentation the worst choice for the set."""
    if task == "segmentation":
        return greedy(candidates)
    name, worst = ("correct", np.min) if task == "classification" else ("rmse", np.max)
    return {name: worst([rows[name] for rows in candidates], axis=0)}


def metric(task: str, rows: Rows, weights: NDArray[Any]) -> NDArray[Any]:
    """The metric for weights of images (..., N)."""
    if task == "segmentation":
        return mean_iou(np.stack([weights @ np.asarray(rows[c], dtype=float) for c in COUNTS]))
    values = np.asarray(rows["correct" if task == "classification" else "rmse"], dtype=float)
    return np.asarray(weights @ values / weights.sum(-1))


def difference(task: str, own: Rows, other: Rows) -> str:
    """Own minus other with a paired 95 % bootstrap over images; for depth in per cent of the other."""
    count = len(next(iter(own.values())))
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    weights = np.concatenate([np.ones((1, count)), draws])
    first, second = metric(task, own, weights), metric(task, other, weights)
    found = (first / second - 1) * 100 if task == "depth" else first - second
    low, high = np.quantile(found[1:], [0.025, 0.975])
    unit, digits = (" %", 2) if task == "depth" else ("", 4 if task == "segmentation" else 3)
    return f"{found[0]:+.{digits}f}{unit} [{low:+.{digits}f}, {high:+.{digits}f}]"


def program_rows(encoder: Any, options: argparse.Namespace, task: str) -> tuple[dict[str, Rows], list[str]]:
    """Rows of the program's attacks by name, and the ids of their images."""
    result = rp.evaluate(
        encoder,
        options.dataset,
        ["clean", *PROGRAM[task]],
        tasks=task,
        eps=options.eps,
        limit=options.limit,
        size=options.size,
        head={"train_limit": options.train_limit},
        root=options.data_root,
        sanity_images=0,
        extreme_examples=0,
        device="cpu",
        progress=False,
    )
    found: dict[str, Rows] = {}
    ids: list[str] = []
    for one in result.found:
        table = one.store.rows(one.record.fingerprint).to_pydict()
        ids = table["id"]
        name = one.record.attack.name + (f":{one.record.attack.objective}" if one.record.attack.objective else "")
        found[name] = {k: np.asarray(table[k]) for k in (*COUNTS, "correct", "rmse") if k in table}
    return {name: found[name] for name in ("clean", *PROGRAM[task])}, ids


def prepared(encoder: Any, options: argparse.Namespace, task: str) -> tuple[Victim, list[str]]:
    model = rp.fit_probe(
        encoder,
        options.dataset,
        task=task,
        root=options.data_root,
        size=options.size,
        train_limit=options.train_limit,
        device="cpu",
    ).requires_grad_(False)
    data = load_dataset(
        options.dataset, root=options.data_root, split="test", limit=options.limit, size=model.size, tasks=[task]
    )
    (batch,) = batches(data, len(data))
    targets = batch.targets[task]
    labels = targets
    if targets.ndim == 3:
        size = (batch.images.shape[-2], batch.images.shape[-1])
        labels = F.interpolate(targets[:, None].double(), size=size, mode="nearest")[:, 0].to(targets.dtype)
    return Victim(model, batch.images, targets, labels, parse_eps(options.eps)), list(batch.ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="bundled:photos-anyhead")
    parser.add_argument("--dataset", choices=TASKS, default="cifar10")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--eps", default="8/255")
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--size", type=int, nargs="+")
    parser.add_argument("--train-limit", type=int)
    parser.add_argument("--scale-steps", type=float, default=1, help="of the independent attacks")
    options = parser.parse_args()
    options.size = tuple(options.size) if options.size and len(options.size) > 1 else (options.size or [None])[0]
    warnings.filterwarnings("ignore")
    task, encoder = TASKS[options.dataset], rp.load_encoder(options.encoder)
    victim, ids = prepared(encoder, options, task)
    program, listed = program_rows(encoder, options, task)
    clean = judged(victim, victim.images)
    assert ids == listed, "not the same images"
    # The program evaluates batches in another way, so that depths may differ by a bit.
    assert all(np.allclose(clean[k], program["clean"][k], rtol=1e-4) for k in program["clean"]), "not the same head"
    own = pooled(task, [judged(victim, images) for images in ATTACKS[task](victim, options.scale_steps)])
    show(options, task, program, own)


def show(options: argparse.Namespace, task: str, program: dict[str, Rows], own: Rows) -> None:
    """A row of a Markdown table, with its head."""
    ones = np.ones(options.limit)
    ensemble = program["ensemble"]
    both = pooled(task, [own, ensemble])
    values = [f"{float(metric(task, rows, ones)):.4f}" for rows in (*program.values(), own, both)]
    print(f"| encoder, eps, n | {' | '.join(program)} | own | both | own - ensemble | both - ensemble | beyond |")
    print("|---|" + "---:|" * (len(program) + 5))
    beyond = "-"
    if task == "classification":
        more, less = ((a["correct"] < b["correct"]).sum() for a, b in ((own, ensemble), (ensemble, own)))
        beyond = f"{more} own, {less} ensemble"
    if task == "depth":
        beyond = f"own worse on {(own['rmse'] > ensemble['rmse']).sum()} of {options.limit}"
    gaps = [difference(task, rows, ensemble) for rows in (own, both)]
    print(f"| {options.encoder}, {options.eps}, {options.limit} | {' | '.join([*values, *gaps, beyond])} |", flush=True)


if __name__ == "__main__":
    main()
