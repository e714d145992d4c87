"""Plans of heads: fingerprints and cost of an encoder's heads on a dataset, before they are fitted."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.device import Elapsed
from robustprobe.core.eps import implausible_eps
from robustprobe.core.errors import UserError
from robustprobe.core.fingerprints import fingerprint
from robustprobe.core.head_spec import HeadSpec, TextsFile, texts_name
from robustprobe.core.spec import DatasetSpec
from robustprobe.core.views import Size, View
from robustprobe.datasets import Dataset, find_dataset
from robustprobe.encoders import Encoder
from robustprobe.probing.fit import Fitted
from robustprobe.probing.probes import (
    ATTACK_STEPS,
    Notify,
    TrainData,
    fit_probes,
    fit_seconds,
    head_fingerprint,
    images_seen,
    is_cached,
    kept_features,
    model_of,
    preprocessing_for,
    spec_of_task,
    train_data,
)
from robustprobe.probing.recipes import GEM, recipe_for, recipe_of
from robustprobe.probing.zero_shot import TASK, fitted_of_texts, texts_digest, with_digest
from robustprobe.tasks import Model, load_task, task_kind


class HeadCost(NamedTuple):
    """Cost of fitting the missing heads: estimated seconds, and bytes of stored features."""

    seconds: Elapsed
    kept_bytes: int


class HeadPlan(NamedTuple):
    """The heads of one encoder on one dataset: train images, and fingerprints by task.

    `size` is the one that images of the dataset are loaded at: (H, W), or the length of the shorter side. `readers` are
    names of the run's encoders, where one file of texts is used for several that were not hardened from one another.
    `order` is a sentence on patch tokens in another order than the image, where they are.
    """

    encoder: Encoder
    data: TrainData
    spec: HeadSpec
    size: Size | int
    keys: dict[str, str]
    readers: tuple[str, ...] = ()
    order: str = ""

    @property
    def views(self) -> Mapping[str, View]:
        """How images are served to the model of each task."""
        return self.data.views

    @property
    def train_images(self) -> int:
        """Number of images that the heads are trained on."""
        return len(self.data.train)

    @property
    def doubts(self) -> list[str]:
        """What is legal but implausible about how heads are fitted, a sentence each."""
        order = [f"{self.encoder.card.name}: {self.order}"] if self.order else []
        if self.spec.threat is None:
            return order
        attack = AttackSpec(name="pgd", eps=self.spec.threat.eps, norm=self.spec.threat.norm)
        text = implausible_eps(attack, self.data.train.typical_size)
        return [*order, f"heads are fitted on attacked images: {text}"] if text else order

    def text_doubts(self, task: str) -> list[str]:
        """What is legal but implausible about the texts that judge a task, a sentence each."""
        texts = spec_of_task(self.spec, task).zero_shot
        if texts is None or not self.readers:
            return []
        return [
            f"{texts_name(texts.shared_text)} is used for {len(self.readers)} encoders ({', '.join(self.readers)}), "
            "and each has an embedding space of its own: texts of one mean nothing to another, unless both are of one "
            "text tower"
        ]

    @property
    def notes(self) -> list[str]:
        """What the recipe does otherwise for this encoder than for others."""
        return [*self._zero_shot, *self._untrained, *self._not_pooled, *self._fewer_blocks]

    @property
    def _zero_shot(self) -> list[str]:
        if self.spec.zero_shot is None:
            return []
        return [f"{TASK} is zero-shot by {texts_name(self.spec.zero_shot.shared_text)}: nothing is fitted for it"]

    @property
    def _fitted_tasks(self) -> list[str]:
        """Tasks whose heads are no zero-shot ones."""
        return [task for task in self.keys if spec_of_task(self.spec, task).zero_shot is None]

    @property
    def _untrained(self) -> list[str]:
        if self.spec.is_usual or self.spec.zero_shot:
            return []
        left = [task for task in self.keys if not task_kind(task).trains]
        return [f"{task} trains no head, so kind and training of heads change nothing there" for task in left]

    @property
    def _not_pooled(self) -> list[str]:
        if self.spec.pooling != GEM:
            return []
        left = [task for task in self.keys if task_kind(task).trains]
        return [f"pooling {GEM} is for tasks that search; heads of {task} read what the recipe says" for task in left]

    @property
    def _fewer_blocks(self) -> list[str]:
        name = self.encoder.card.name
        wanted = {
            task: recipe_of(self.spec, load_task(task, self.data.train.spaces[task])) for task in self._fitted_tasks
        }
        most = max((recipe.layers for recipe in wanted.values()), default=1)
        readable = self.encoder.readable_blocks(most)
        if self.spec.layers is not None or readable == most:
            return []
        blocks = "the last block" if readable == 1 else f"the last {readable} blocks"
        return [f"{name}: heads read {blocks}; recipe {self.spec.recipe} also tries {most} where an encoder has them"]

    def cost(self, forward: Elapsed, step: Elapsed, device: torch.device) -> HeadCost:
        """Cost of fitting the heads that are not in the cache, estimated from a short fit of each.

        Args:
            forward: seconds of a forward pass of the encoder per image.
            step: seconds of a forward and backward pass to the image.
        """
        found = [cost for name in self.keys for cost in self._costs(name, forward, step, device)]
        kept = max((cost.kept_bytes for cost in found), default=0)
        extracted = self.train_images + len(self.data.val) if kept else 0
        return HeadCost(sum((cost.seconds for cost in found), Elapsed()) + forward * extracted, kept)

    def _costs(self, name: str, forward: Elapsed, step: Elapsed, device: torch.device) -> Iterator[HeadCost]:
        """Of the missing heads of a task, on attacked and on clean images; without passes that extract features."""
        encoder, task = self.encoder, load_task(name, self.data.train.spaces[name])
        if name not in self._fitted_tasks or is_cached(self.keys[name], task, encoder.card.widths):
            return
        if not task.trains:
            yield HeadCost(forward * (self.train_images + len(self.data.val)), 0)
            return
        recipe, fit = recipe_for(self.spec, task, encoder), fit_seconds(task, self.data, encoder, self.spec, device)
        seen, held_out = images_seen(recipe, self.train_images), len(self.data.val)
        if self.spec.threat:
            passes = forward * (seen + held_out) + step * ATTACK_STEPS * seen
            one_fit = fit / (len(recipe.designs) * len(recipe.learning_rates))
            yield HeadCost(passes + (1 + ATTACK_STEPS) * one_fit, 0)
            before = head_fingerprint(encoder.digest, name, self.data, self.spec.on_clean_images)
            if is_cached(before, task, encoder.card.widths):
                return
        if recipe.augment == "none":
            yield HeadCost(fit, kept_features(encoder, self.views[name], self.data))
        else:
            yield HeadCost(fit + forward * (seen + held_out), 0)

    def fit(
        self,
        device: torch.device,
        tasks: Sequence[str] | None = None,
        notify: Notify = lambda stage, done, total: None,
    ) -> dict[str, tuple[Model, Fitted]]:
        """The models of `tasks`, all by default; heads that were fitted before come from the cache."""
        names = list(tasks or self.keys)
        return fit_probes(self.encoder, self.data, names, spec=self.spec, device=device, notify=notify)

    def model(self, task: str, fitted: Fitted, device: torch.device) -> Model:
        """The model of an encoder and a head fitted on it."""
        return model_of(self.encoder, self.data, task, fitted, device)


def plan_heads(
    encoder: Encoder, dataset: DatasetSpec, spec: HeadSpec, *, root: Path, tasks: Sequence[str] | None = None
) -> HeadPlan:
    """Plan the heads that a recipe fits on an encoder for a dataset, without fitting one.

    Args:
        tasks: those that are evaluated together, which decides how images are served; by default all tasks that
            the dataset has labels for.

    Raises:
        UserError: unknown names, the dataset's images are missing, or texts that do not fit encoder and dataset.
    """
    found = find_dataset(dataset.name, root=root, tasks=tasks or ())
    names, spec = list(tasks or found.spaces), with_digest(spec)
    serving = preprocessing_for(encoder.card, found, spec, dataset.size, names)
    data = train_data(dataset.name, root, serving, spec)
    if spec.zero_shot is not None:
        _check_texts(encoder, spec.zero_shot, data.train, names)
    keys = {task: head_fingerprint(encoder.digest, task, data, spec) for task in names}
    if tower := texts_digest(encoder, spec):
        keys[TASK] = fingerprint([keys[TASK], tower])
    return HeadPlan(encoder, data, spec, serving.size, keys)


def _check_texts(encoder: Encoder, texts: TextsFile, data: Dataset, tasks: Sequence[str]) -> None:
    """Raises UserError where texts fit neither the encoder nor the classes of a dataset, or nothing asks for them."""
    if TASK not in tasks:
        raise UserError(
            f"texts of a zero-shot head are for {TASK}, and {data.name} is evaluated on {', '.join(tasks)}; "
            f"add the task {TASK} where the dataset has it, else leave the texts or the dataset out."
        )
    fitted_of_texts(encoder, texts, data)
