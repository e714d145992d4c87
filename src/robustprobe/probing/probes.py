"""Heads fitted on frozen features: candidates of a recipe, chosen on held-out images, cached by content."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from robustprobe.core.device import Elapsed, seconds_of
from robustprobe.core.errors import UserError
from robustprobe.core.fingerprints import code_digest, fingerprint
from robustprobe.core.head_spec import ZERO_SHOT, HeadSpec
from robustprobe.core.head_threat import HeadThreat
from robustprobe.core.inner_attack import InnerAttack
from robustprobe.core.threat import NORMS
from robustprobe.core.types import FeatureDims, Features, HeadDesign
from robustprobe.core.views import Resized, Size, View, Windows
from robustprobe.datasets import Dataset, batches, load_dataset
from robustprobe.encoders import Encoder, EncoderCard
from robustprobe.probing.augment import Augmentation
from robustprobe.probing.cache import Weights, load_weights, save_weights
from robustprobe.probing.features import CHUNK, FeatureBatch, FeatureSet, Streamed, extract, kept_bytes, label_size
from robustprobe.probing.fit import Candidate, FitJob, Fitted, fit_head, train_heads
from robustprobe.probing.recipes import Preprocessing, preprocessing, recipe_for
from robustprobe.probing.zero_shot import TASK, fitted_of_texts
from robustprobe.tasks import Head, Model, Task, TaskRecipe, load_task, task_kind

Notify = Callable[[str, int, int], None]
# Largest number of train images for k-NN.
MOST_KNN_IMAGES = 20_000
# The attack on images that heads are fitted on: each step is half of eps.
ATTACK_STEPS, ATTACK_STEP_SHARE = 3, 0.5
# Images of fewer pixels are fitted on together when the time is measured: of four, half of it is no computing.
PROBE_PIXELS = 200_000


class TrainData(NamedTuple):
    """Train images, held-out images that heads are chosen on, and how images are served to each task's model."""

    train: Dataset
    val: Dataset
    views: Mapping[str, View]

    def fingerprint(self) -> str:
        return fingerprint([self.train.digest(), self.val.digest(), {t: repr(v) for t, v in self.views.items()}])


def preprocessing_for(
    card: EncoderCard, data: Dataset, spec: HeadSpec, size: Size | None = None, tasks: Sequence[str] | None = None
) -> Preprocessing:
    """How a recipe serves the images of a dataset to an encoder, at `size` (H, W) if given.

    An encoder that takes one size only gets whole images resized to it where the recipe would serve another.

    Args:
        tasks: those that are evaluated together; by default all tasks that the dataset has labels for.
    """
    fitted = size or data.fit_size(card.input_size, card.patch_size)
    found = preprocessing(
        spec.recipe, list(tasks or data.spaces), card.input_size, card.patch_size, data.native_size, fitted
    )
    if size is None:
        seen = {view.part_size(data.typical_size) for view in found.views.values()}
        if not card.fixed_size or seen == {card.input_size}:
            return found
        return Preprocessing(card.input_size, dict.fromkeys(found.views, Resized(size=card.input_size)))
    views = {t: replace(v, size=size) if isinstance(v, Resized) else v for t, v in found.views.items()}
    return Preprocessing(size, views)


def train_data(name: str, root: Path, preprocessing: Preprocessing, spec: HeadSpec) -> TrainData:
    """Train and held-out images of a dataset; a limit on train limits the held-out part to a quarter of it.

    Where a dataset holds nothing out, train stands in its place.
    """
    load = partial(load_dataset, name, root=root, size=preprocessing.size, tasks=list(preprocessing.views))
    val_limit = None if spec.train_limit is None else max(1, spec.train_limit // 4)
    train = load(split="train", limit=spec.train_limit)
    val = load(split="val", limit=val_limit) if "val" in train.splits else train
    return TrainData(train, val, preprocessing.views)


def head_fingerprint(encoder_digest: str, task: str, data: TrainData, spec: HeadSpec) -> str:
    """The fingerprint of everything a head depends on: weights, task, data, recipe and code."""
    own = spec_of_task(spec, task)
    if own.zero_shot is not None:
        served = [repr(data.views[task]), data.train.spaces[task].classes, own.zero_shot.sha256]
        return fingerprint([encoder_digest, task, ZERO_SHOT, *served, code_digest()])
    fields = own.facts()
    return fingerprint([encoder_digest, task, data.fingerprint(), fields, code_digest()])


def spec_of_task(spec: HeadSpec, task: str) -> HeadSpec:
    """How heads of a task are made: kind and training say nothing of one that trains none, texts of another task."""
    if spec.zero_shot is not None:
        return spec.zero_shot_alone if task == TASK else spec.usual
    return spec if task_kind(task).trains else spec.usual


def load_head(key: str, task: Task, widths: FeatureDims) -> Fitted | None:
    """The cached head of a fingerprint, for features of one layer with `widths` channels; None if there is none."""
    stored = load_weights(key)
    if stored is None:
        return None
    weights, facts = stored
    try:
        design = HeadDesign(*facts["design"])
        head = task.new_head(wide(widths, design.layers), design)
        own, other = _parted(weights)
        head.load_state_dict(own)
        knn_head = task.knn_head(other["bank"], other["labels"], facts["knn"]) if other else None
        fitted = Fitted(head, facts["learning_rate"], facts["held_out_score"], design, knn_head, facts.get("knn", 0))
    except (KeyError, ValueError, RuntimeError, TypeError):
        return None
    head.eval().requires_grad_(False)
    return fitted


def save_head(key: str, fitted: Fitted) -> None:
    """Store a head under its fingerprint, whole or not at all. Does nothing if the cache cannot be written."""
    facts: dict[str, Any] = {"learning_rate": fitted.learning_rate, "held_out_score": fitted.held_out_score}
    facts["design"] = list(fitted.design)
    weights: Weights = {f"head.{k}": v for k, v in fitted.head.state_dict().items()}
    if fitted.knn_head is not None:
        facts["knn"] = fitted.knn
        weights |= {f"knn.{k}": v for k, v in fitted.knn_head.state_dict().items()}
    save_weights(key, weights, facts)


def is_cached(key: str, task: Task, widths: FeatureDims) -> bool:
    """Whether a head is in the cache."""
    return load_head(key, task, widths) is not None


def _parted(weights: Weights) -> tuple[Weights, Weights]:
    def under(prefix: str) -> Weights:
        return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}

    return under("head."), under("knn.")


def wide(widths: FeatureDims, layers: int) -> FeatureDims:
    """Channels of `layers` concatenated layers."""
    return FeatureDims(widths.cls * layers, widths.patch * layers)


def fit_probes(
    encoder: Encoder,
    data: TrainData,
    tasks: list[str],
    *,
    spec: HeadSpec,
    device: torch.device,
    notify: Notify = lambda stage, done, total: None,
) -> dict[str, tuple[Model, Fitted]]:
    """A model for each task of a dataset; heads that were fitted before come from the cache."""
    fitter, models = ProbeFitter(encoder, data, spec, device, notify), {}
    for name in tasks:
        fitted = _fitted(fitter, load_task(name, data.train.spaces[name]), spec)
        models[name] = (model_of(encoder, data, name, fitted, device), fitted)
    return models


def _fitted(fitter: "ProbeFitter", task: Task, spec: HeadSpec) -> Fitted:
    """The best head of a task, from the cache where it was fitted before.

    One that is fitted on attacked images has the design and the learning rate of the best one on clean images.
    """
    encoder, data = fitter.encoder, fitter.data
    if (texts := spec_of_task(spec, task.name).zero_shot) is not None:
        return fitted_of_texts(encoder, texts, data.train)
    key = head_fingerprint(encoder.digest, task.name, data, spec)
    fitted = load_head(key, task, encoder.card.widths)
    if fitted is None:
        files = data.fingerprint()
        if (threat := spec_of_task(spec, task.name).threat) is not None:
            fitted = fitter.fit_attacked(task, key, threat, _fitted(fitter, task, spec.on_clean_images))
        else:
            fitted = fitter.fit(task, key)
        if data.fingerprint() != files:
            raise UserError(
                f"files of {data.train.name} changed while a head was fitted on them; it is not kept. "
                "Run the same command again."
            )
        save_head(key, fitted)
    return fitted


def model_of(encoder: Encoder, data: TrainData, task: str, fitted: Fitted, device: torch.device) -> Model:
    """The model of an encoder and a head fitted on it."""
    view = replace(data.views[task], layers=fitted.design.layers)
    knn_head = fitted.knn_head.to(device) if fitted.knn_head else None
    head = fitted.head.to(device)
    kind = load_task(task, data.train.spaces[task]).of_model(head)
    return Model(encoder, head, kind, view, knn_head).eval()


class ProbeFitter:
    """Fits the heads of one encoder on one dataset; without augmentation, features are extracted once for all tasks."""

    def __init__(self, encoder: Encoder, data: TrainData, spec: HeadSpec, device: torch.device, notify: Notify) -> None:
        self.encoder, self.data, self.spec, self.device, self.notify = encoder, data, spec, device, notify
        self.kept: dict[tuple[View, int], tuple[FeatureSet, FeatureSet]] = {}

    def fit(self, task: Task, key: str) -> Fitted:
        """The best head of a task's recipe."""
        recipe = recipe_for(self.spec, task, self.encoder)
        if not task.trains:
            return self._made(task, recipe.designs[0]._replace(hidden=0))
        view = replace(self.data.views[task.name], layers=recipe.layers)
        kept = self._kept(view, recipe.label_stride) if recipe.augment == "none" else None
        source = kept[0] if kept else self._streamed(view, recipe, task)
        widths, count = self.encoder.card.widths, len(self.data.train)
        fit_job = FitJob(task, recipe, widths, source, count, self.spec.seed, self.device, key)
        judge = partial(self._judge_kept, task, kept[1]) if kept else partial(self._judge, task, view)
        fitted = fit_head(fit_job, judge, partial(self.notify, f"learning {task.name}"))
        return fitted._replace(knn_head=self._knn_head(task, view, kept), knn=self.spec.knn)

    def fit_attacked(self, task: Task, key: str, threat: HeadThreat, clean: Fitted) -> Fitted:
        """The head of the design and learning rate of a `clean` one, fitted on images attacked inside a ball."""
        chosen = {"designs": (clean.design,), "learning_rates": (clean.learning_rate,)}
        recipe = recipe_for(self.spec, task, self.encoder).model_copy(update=chosen)
        view = replace(self.data.views[task.name], layers=recipe.layers)
        attack = InnerAttack(NORMS[threat.norm](threat.eps), ATTACK_STEPS, ATTACK_STEP_SHARE)
        source, count = self._streamed(view, recipe, task), len(self.data.train)
        fit_job = FitJob(
            task, recipe, self.encoder.card.widths, source, count, self.spec.seed, self.device, key, attack
        )
        stage = f"learning {task.name} on attacked images"
        fitted = fit_head(fit_job, partial(self._judge, task, view), partial(self.notify, stage))
        return fitted._replace(knn_head=clean.knn_head, knn=clean.knn)

    @torch.no_grad()
    def _made(self, task: Task, design: HeadDesign) -> Fitted:
        """The head of a task that trains none, and its score on held-out images."""
        view = replace(self.data.views[task.name], layers=design.layers)
        head = task.made_head(self._labelled(task, view, self.data.train, "features"), design).to(self.device).eval()
        if self.data.val is self.data.train:
            return Fitted(head, 0.0, math.nan, design)
        judged, size, scores = task.of_model(head), self.data.val.typical_size, []
        for features, target in self._labelled(task, view, self.data.val, f"judging {task.name}"):
            scores.append(judged.score(judged.rows(head(features, size), target)).double().cpu())
        return Fitted(head, 0.0, float(torch.cat(scores).nanmean()), design)

    def _labelled(self, task: Task, view: View, data: Dataset, stage: str) -> Iterator[tuple[Features, Tensor]]:
        """Features of a view's parts of all images of a dataset, and their labels, batch by batch."""
        done = 0
        for batch in batches(data, CHUNK):
            yield view.features(self.encoder, batch.images.to(self.device)), batch.targets[task.name].to(self.device)
            done += len(batch.ids)
            self.notify(stage, done, len(data))

    def _kept(self, view: View, stride: int) -> tuple[FeatureSet, FeatureSet]:
        if (view, stride) not in self.kept:
            size = kept_features(self.encoder, view, self.data)
            stage = f"features, {size / 2**30:.1f} GiB" if size > 2**30 else "features"
            train = extract(self.encoder, view, self.data.train, stride, self.device, partial(self.notify, stage))
            self.kept[view, stride] = train, extract(self.encoder, view, self.data.val, stride, self.device)
        return self.kept[view, stride]

    def _streamed(self, view: View, recipe: TaskRecipe, task: Task) -> Streamed:
        crop = (view.window, view.window) if isinstance(view, Windows) else self._fixed_size(view)
        augmentation = Augmentation(recipe.augment, crop, task, self.spec.seed)
        return Streamed(self.encoder, view, self.data.train, augmentation, recipe.label_stride)

    def _fixed_size(self, view: View) -> Size:
        return view.size if isinstance(view, Resized) else self.data.train.native_size

    def _judge_kept(self, task: Task, val: FeatureSet, candidates: Sequence[Candidate]) -> list[float]:
        return mean_scores(task, candidates, val.parts(task.name, self.device))

    def _judge(self, task: Task, view: View, candidates: Sequence[Candidate]) -> list[float]:
        return mean_scores(task, candidates, self._seen_whole(task, view), view)

    def _seen_whole(self, task: Task, view: View) -> Iterator[FeatureBatch]:
        """Features of held-out images as in the evaluation: whole images, labels at their own resolution."""
        done, count = 0, len(self.data.val)
        for batch in batches(self.data.val, CHUNK // 16):
            features = view.features(self.encoder, batch.images.to(self.device))
            size = (batch.images.shape[-2], batch.images.shape[-1])
            yield FeatureBatch(features, batch.targets[task.name].to(self.device), size)
            done += len(batch.ids)
            self.notify(f"choosing a head for {task.name}", done, count)

    @torch.no_grad()
    def _knn_head(self, task: Task, view: View, kept: tuple[FeatureSet, FeatureSet] | None) -> Head | None:
        if not task.has_knn_head or not self.spec.knn:
            return None
        train = self.data.train
        positions = list(range(0, len(train), -(-len(train) // MOST_KNN_IMAGES)))
        if kept:
            cls, labels = kept[0].cls[positions, -self.encoder.card.widths.cls :], kept[0].targets[task.name][positions]
            return task.knn_head(F.normalize(cls, dim=1), labels, self.spec.knn)
        found, labels_found = [], []
        for batch in batches(train, CHUNK, order=positions):
            features = replace(view, layers=1).features(self.encoder, batch.images.to(self.device))
            found.append(F.normalize(features.cls, dim=1).cpu())
            labels_found.append(batch.targets[task.name])
        return task.knn_head(torch.cat(found), torch.cat(labels_found), self.spec.knn)


@torch.no_grad()
def mean_scores(
    task: Task, candidates: Sequence[Candidate], parts: Iterable[FeatureBatch], view: View | None = None
) -> list[float]:
    """Mean score per image of every candidate; with a view, on the features of its parts."""
    scores: list[list[Tensor]] = [[] for _ in candidates]
    for part in parts:
        for candidate, found in zip(candidates, scores, strict=True):
            seen = candidate.read(part.features)
            if view is None:
                output = candidate.head(seen, part.size)
            else:
                output = view.join(candidate.head(seen, view.part_size(part.size)), part.size)
            found.append(task.score(task.rows(output, part.target)).double().cpu())
    return [float(torch.cat(found).nanmean()) for found in scores]


def kept_features(encoder: Encoder, view: View, data: TrainData) -> int:
    """Bytes of the stored features of train and held-out images, in memory or on disk."""
    height, width = (side // encoder.card.patch_size for side in view.part_size(data.train.typical_size))
    widths = encoder.card.widths
    floats = view.layers * (widths.cls + widths.patch * height * width)
    return kept_bytes(len(data.train) + len(data.val), floats)


def fit_seconds(task: Task, data: TrainData, encoder: Encoder, spec: HeadSpec, device: torch.device) -> Elapsed:
    """Estimated seconds to fit the heads of a task on extracted features, from a short fit on random features."""
    recipe = recipe_for(spec, task, encoder)
    view = replace(data.views[task.name], layers=recipe.layers)
    part = view.part_size(data.train.typical_size)
    # The time of maps is proportional to the batch size; that of pooled features hardly depends on it.
    most = max(4, min(16, PROBE_PIXELS // (part[0] * part[1]))) if task.map_channels else recipe.batch_size
    count, widths = min(recipe.batch_size, len(data.train), most), wide(encoder.card.widths, recipe.layers)
    labels = label_size(part, recipe.label_stride)
    target = task.example_targets(count, labels)
    grid = part[0] // encoder.card.patch_size, part[1] // encoder.card.patch_size
    fake = FeatureSet(
        torch.randn(count, widths.cls), torch.randn(count, widths.patch, *grid), {task.name: target}, labels
    )
    steps = 2  # one per epoch
    short = recipe.model_copy(update={"epochs": steps, "steps": None})
    fit_job = FitJob(task, short, encoder.card.widths, fake, count, 0, device)
    return images_seen(recipe, len(data.train)) / count * seconds_of(lambda: train_heads(fit_job), device) / steps


def images_seen(recipe: TaskRecipe, train_images: int) -> int:
    """Number of images, with repetition, that a recipe trains on."""
    return recipe.steps * recipe.batch_size if recipe.steps else recipe.epochs * train_images
