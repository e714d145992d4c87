"""What is kept of a job's batches: rows, sizes, passes, and a few images to check the attack on."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustprobe.evaluation import Judgement, Work, attacked_function, victim
from robustprobe.spec import AttackSpec
from robustprobe.store import Cost
from robustprobe.trust import Check, Judge, Sample, sample_checks, trace_checks


class Kept(NamedTuple):
    """One image to check the attack on."""

    place: int
    id: str
    image: Tensor
    adversarial: Tensor
    harm: Tensor
    targets: dict[str, Tensor]


def largest_group(kept: list[Kept]) -> list[Kept]:
    """Those of the most common shape: the attack is run again on them as one batch."""
    groups: dict[tuple[object, ...], list[Kept]] = {}
    for one in kept:
        shapes = (one.image.shape, *(target.shape for target in one.targets.values()))
        groups.setdefault(shapes, []).append(one)
    return max(groups.values(), key=len)


class Tally:
    """Collects one attack at one eps as batches pass; images are let go, but for those at `places`."""

    def __init__(self, work: Work, spec: AttackSpec, places: set[int]) -> None:
        self.work, self.spec, self.places = work, spec, places
        self.ids: list[str] = []
        self.parts: list[Judgement] = []
        self.kept: list[Kept] = []
        self.low, self.high = torch.inf, -torch.inf

    def add(self, judged: Judgement) -> None:
        """Take note of a batch; batches come in the order of the dataset."""
        batch, made = judged.batch, judged.attacked.images
        for row, identity in enumerate(batch.ids):
            place = len(self.ids) + row
            if place in self.places:
                targets = {task: target[row] for task, target in batch.targets.items()}
                harm = judged.attacked.harm[row]
                self.kept.append(Kept(place, identity, batch.images[row], made[row], harm, targets))
        self.ids += batch.ids
        self.low, self.high = min(self.low, float(made.min())), max(self.high, float(made.max()))
        nothing = batch._replace(images=torch.empty(0), targets={})
        attacked = judged.attacked._replace(images=torch.empty(0))
        self.parts.append(judged._replace(batch=nothing, attacked=attacked, outputs={}))

    @property
    def size(self) -> Tensor:
        """Size of each perturbation (N,)."""
        return torch.cat([part.size for part in self.parts])

    @property
    def cost(self) -> Cost:
        """Passes an image."""
        forwards, backwards = (sum(getattr(p.attacked, n) for p in self.parts) for n in ("forwards", "backwards"))
        return Cost(forwards=forwards / len(self.ids), backwards=backwards / len(self.ids))

    def columns(self, task: str, rounded: bool = False) -> dict[str, NDArray[Any]]:
        """The rows a judge wrote, by column."""
        parts = [(part.rounded if rounded else part.rows)[task] for part in self.parts]
        return {name: np.concatenate([p[name].numpy() for p in parts]) for name in parts[0]}

    def checks(self) -> dict[str, list[Check]]:
        """Checks of the attack, by judging task; none where there was no attack."""
        work, spec = self.work, self.spec
        if spec.eps == 0:
            return {task: [] for task in work.judges}
        zeros, rising = (torch.cat([getattr(p.attacked, n) for p in self.parts]) for n in ("zero_gradient", "rising"))
        common = trace_checks(spec, (self.low, self.high), self.size, zeros, rising)
        own = {work.made_for} if work.made_for else set(work.judges)
        found = self._on_sample(own) if self.kept and spec.name != "noise" else {}
        return {task: [*common, *found.get(task, [])] for task in work.judges}

    def _on_sample(self, tasks: set[str]) -> dict[str, list[Check]]:
        work, device = self.work, self.work.device
        kept = largest_group(self.kept)
        labels = {t: torch.stack([k.targets[t] for k in kept]).to(device) for t in work.dataset.labels}
        size = (kept[0].image.shape[-2], kept[0].image.shape[-1])
        sample = Sample(
            victim(work, attacked_function(work), labels, [k.place for k in kept], size),
            torch.stack([k.image for k in kept]).to(device),
            [k.id for k in kept],
            torch.stack([k.adversarial for k in kept]).to(device),
            torch.stack([k.harm for k in kept]),
        )
        judges = {t: Judge(work.models[t], labels[t], work.models[t].task) for t in work.judges if t in tasks}
        return sample_checks(self.spec, sample, judges)
