"""Example images of a run: chosen at random, the same for every encoder and attack, stored without loss."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustprobe.evaluation import Judgement, Work
from robustprobe.spec import AttackSpec
from robustprobe.store import Example, Group, Store
from robustprobe.tasks._base import fit_labels

TOP = 5
MILLIMETRES = 1000


def example_places(ids: Sequence[str], count: int, seed: int) -> set[int]:
    """Places of `count` images drawn at random, by a seed and their ids alone."""
    order = sorted(range(len(ids)), key=lambda i: hashlib.sha256(f"{seed}/{ids[i]}".encode()).digest())
    return set(order[:count])


class ExampleWriter:
    """Collects the chosen images of one group as batches pass, and writes them once all are there."""

    def __init__(
        self, store: Store, group: str, work: Work, attack: AttackSpec, made_for: str, places: set[int]
    ) -> None:
        self.store, self.group, self.work, self.attack = store, group, work, attack
        self.made_for, self.places = made_for, places
        self.offset = 0
        self.examples: list[Example] = []
        self.pictures: dict[str, NDArray[Any]] = {}

    def add(self, judged: Judgement) -> None:
        """Collect the chosen images of a batch; batches come in the order of the dataset."""
        for row, identity in enumerate(judged.batch.ids):
            if self.offset + row in self.places:
                self.examples.append(self._example(judged, row, identity))
        self.offset += len(judged.batch.ids)

    def finish(self) -> None:
        """Write the images, then the group's description; nothing where no image was to be kept."""
        if not self.places:
            return
        digests = {name: self.store.write_image(self.group, name, p) for name, p in self.pictures.items()}
        labels = self.work.dataset.labels
        depth = labels["depth"].max_depth if "depth" in labels else 0.0
        self.store.write_group(
            Group(
                group=self.group,
                encoder=self.work.encoder.card.name,
                dataset=self.work.dataset.name,
                attack=self.attack,
                made_for=self.made_for,
                classes={task: list(space.classes) for task, space in labels.items()},
                max_depth=depth,
                examples=self.examples,
                digests=digests,
            )
        )

    def _example(self, judged: Judgement, row: int, identity: str) -> Example:
        place = self.offset + row
        pixels = (judged.attacked.images[row] * 255).round().byte().permute(1, 2, 0)
        self.pictures[f"{place}.png"] = pixels.numpy()
        predictions = {task: self._prediction(task, out[row], place) for task, out in judged.outputs.items()}
        size = (pixels.shape[0], pixels.shape[1])
        truth = {task: self._truth(task, target[row], place, size) for task, target in judged.batch.targets.items()}
        return Example(id=identity, place=place, predictions=predictions, truth=truth)

    def _prediction(self, task: str, output: Tensor, place: int) -> Any:
        classes = self.work.dataset.labels[task].classes
        if task == "classification":
            shares, order = output.softmax(0).topk(min(TOP, len(classes)))
            return [[classes[int(i)], round(float(s), 4)] for s, i in zip(shares, order, strict=True)]
        label_map = output.argmax(0) if task == "segmentation" else output
        return self._map(f"{place}-{task}.png", task, label_map)

    def _truth(self, task: str, target: Tensor, place: int, size: tuple[int, int]) -> Any:
        if task == "classification":
            return self.work.dataset.labels[task].classes[int(target)]
        name = f"{place}-{task}-truth.png"
        size = self.work.models[task].view.output_size(size)
        return self._map(name, task, fit_labels(target[None], size)[0], self.attack.name == "clean")

    def _map(self, name: str, task: str, values: Tensor, write: bool = True) -> str:
        if write:
            levels = values if task == "segmentation" else (values * MILLIMETRES).round()
            kind = np.uint8 if task == "segmentation" else np.uint16
            self.pictures[name] = levels.to(torch.int64).numpy().astype(kind)
        return name
