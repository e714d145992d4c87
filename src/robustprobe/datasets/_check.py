"""Is a folder the official data, whole and readable? What `robustprobe data check` says."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from robustprobe.core.errors import UserError
from robustprobe.core.types import LabelStatistics
from robustprobe.datasets._loading import find_dataset
from robustprobe.datasets.base import Dataset, Split
from robustprobe.tasks import Task, load_task

SAMPLE = 64
MOST_VALUES = 16384
MOST_COPIES = 0.01
"""Published datasets hold a few images twice."""
CHOSEN = ", so that heads are chosen on what they were fitted on"


@dataclass
class SplitFindings:
    """What was found in a split. `wrong` is the first thing that is wrong, if any."""

    split: Split
    ids: Sequence[str] = ()
    looked_at: int = 0
    flat: int = 0
    sizes: set[tuple[int, int]] = field(default_factory=set)
    labels: dict[str, "LabelFindings"] = field(default_factory=dict)
    wrong: str = ""


@dataclass
class LabelFindings:
    """The values of one task's labels."""

    task: Task
    values: Tensor = field(default_factory=lambda: torch.zeros(0))
    counts: Counter[int] = field(default_factory=Counter)
    used: int = 0
    total: int = 0
    in_train: frozenset[int] | None = None

    def add(self, target: Tensor) -> None:
        """Note the label of an image."""
        used = self.task.counted(target)
        if not used.is_floating_point():
            self.counts.update(dict(zip(*(part.tolist() for part in used.unique(return_counts=True)), strict=True)))
        values = torch.cat([self.values, used.flatten().unique().float()]).unique()
        # Depths that are not rounded would be kept by the million: the extremes and a spread are enough.
        self.values = (
            values[torch.linspace(0, len(values) - 1, MOST_VALUES).long()] if len(values) > MOST_VALUES else values
        )
        self.used, self.total = self.used + used.numel(), self.total + target.numel()

    @property
    def statistics(self) -> LabelStatistics:
        return LabelStatistics(self.values, self.used, self.total, dict(self.counts), self.in_train)

    def __str__(self) -> str:
        return self.task.describe_labels(self.statistics) if len(self.values) else "none"


@dataclass(frozen=True)
class Findings:
    """What was found in a dataset: what is wrong, first things first, and what a user should know."""

    dataset: Dataset
    splits: list[SplitFindings]
    notes: list[str]
    wrong: list[str]


def check(name: str, root: Path, *, sample: int | None = SAMPLE) -> Findings:
    """Read a fixed sample of every split, or all of it, and compare the counts with the official ones.

    Raises:
        UserError: no such dataset, or a folder that does not say what its labels mean.
    """
    found = [find_dataset(name, root=root, split=split) for split in _splits(name, root)]
    splits = [check_split(dataset, sample) for dataset in found]
    wrong = [f"{part.split}: {part.wrong}" for part in splits if part.wrong]
    notes: list[str] = []
    if not wrong:
        wrong += shared_images(splits)
        for split, official in found[0].counts.items():
            number, expected = counted(split, splits, found[0]), " or ".join(f"{count:,}" for count in official)
            if number > max(official):
                wrong.append(f"{split}: {number:,} images, more than the official {expected}. Remove what was added.")
            elif number not in official:
                notes.append(f"{split}: found {number:,} of {expected} images: a subset")
        notes += dict.fromkeys(remark for dataset in found for remark in [*dataset.remarks(), *dataset.doubts()])
        notes += copies_among(found[0], found[-1], *found[1:2]) if sample is None else []
        notes += grouped(splits)
    return Findings(found[0], splits, notes, wrong)


def _splits(name: str, root: Path) -> tuple[Split, ...]:
    return find_dataset(name, root=root).splits


def check_split(dataset: Dataset, sample: int | None) -> SplitFindings:
    """List a split, read a fixed sample of it, and stop at the first thing that is wrong."""
    findings = SplitFindings(dataset.split)
    try:
        findings.ids = dataset.ids()
        dataset.select(None)
        empty = next((path for path in dataset.files() if not path.stat().st_size), None)
        if empty:
            raise UserError(f"{empty} is empty. Replace the file.")
        findings.labels = {name: LabelFindings(load_task(name, space)) for name, space in dataset.labels.items()}
        dataset.select(sample)
        for position, index in enumerate(dataset.indices):
            image, targets = dataset[position][1:]
            for task, target in targets.items():
                findings.labels[task].add(target)
            findings.flat += bool(image.min() == image.max())
            stored = dataset.read(index).image
            findings.sizes.add((stored.height, stored.width))
            findings.looked_at += 1
    except (UserError, OSError) as error:
        findings.wrong = str(error)
    return findings


def counted(split: Split, splits: Sequence[SplitFindings], dataset: Dataset) -> int:
    """Images of an official split: of ours, with `val` where that was held out of train."""
    sizes = {part.split: len(part.ids) for part in splits}
    return sizes[split] + (sizes.get("val", 0) if split == "train" and "val" not in dataset.counts else 0)


def shared_images(splits: Sequence[SplitFindings]) -> list[str]:
    """Images that belong to more than one split."""
    seen: dict[str, Split] = {}
    for part in splits:
        for identity in part.ids:
            if identity in seen:
                return [f"{part.split}: image {identity} is in {seen[identity]} too. Remove it from one of the lists."]
            seen[identity] = part.split
    return []


def copies_among(train: Dataset, reported: Dataset, held_out: Dataset | None = None) -> list[str]:
    """Warnings where more than `MOST_COPIES` of the images of a split are in another one too, or of those reported on
    repeat one another. Train that stands in the place of another split is not compared with itself.

    Args:
        held_out: the images that heads are chosen on.
    """
    pairs = [(train, reported)] if reported is not train else []
    if held_out is not None and held_out.split not in (train.split, reported.split):
        after = [(held_out, reported)] if reported.split != train.split else []
        pairs = [(train, held_out), *pairs, *after]
    counts = {data: Counter(data.image_digests()) for data in dict.fromkeys(chain.from_iterable(pairs))}
    found = []
    for one, other in pairs:
        shared = sum(counts[other][digest] for digest in counts[other].keys() & counts[one].keys())
        if shared > MOST_COPIES * len(other):
            what = f"{other.split}: {shared:,} of {len(other):,} images are in {one.split} too, byte for byte"
            found.append(what + (CHOSEN if other is held_out else ""))
    repeated = len(reported) - len(counts[reported]) if reported is not train and counts[reported] else 0
    if repeated > MOST_COPIES * len(reported):
        found.append(f"{reported.split}: {repeated:,} of {len(reported):,} images repeat others, byte for byte")
    return found


def grouped(splits: Sequence[SplitFindings]) -> list[str]:
    """The doubts about every split, the splits that share one named together."""
    shared: dict[str, list[str]] = defaultdict(list)
    for part in splits:
        for doubt in doubts(part):
            shared[doubt].append(part.split)
    return [f"{', '.join(names)}: {doubt}" for doubt, names in shared.items()]


def doubts(part: SplitFindings) -> list[str]:
    """What is not wrong by the format, but looks it."""
    found = [f"{part.flat} of the images read are of one colour"] if part.flat else []
    whole = part.looked_at == len(part.ids)
    for label in part.labels.values():
        found += label.task.label_warnings(label.statistics, whole)
    return found
