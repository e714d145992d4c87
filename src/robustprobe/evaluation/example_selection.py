"""Extreme examples: the images that an attack damaged most, only just broke, and damaged least, for every attack.

Chosen from the rows of finished cells, after which only these images are attacked again, and random ones that are not
there yet.
"""

import hashlib
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from robustprobe.core.errors import UnwritableError, UserError
from robustprobe.core.fingerprints import fingerprint
from robustprobe.evaluation.cells import AttackJob, Cell, EncoderOnDataset, EpsLevel, Plan
from robustprobe.evaluation.examples import ExampleContext, add_examples, example_places, new_group
from robustprobe.evaluation.remade_images import FailedCompletion, ImageRemaker
from robustprobe.evaluation.row_scores import Floats, row_scores
from robustprobe.metrics.kept import share_kept
from robustprobe.results.example_images import RANDOM, ChoiceKind, ExampleChoice, Group
from robustprobe.results.records import Record
from robustprobe.results.store import Store
from robustprobe.tasks import Task, load_task

BROKEN = 0.5
"""An image that keeps at most so much of its clean score is broken."""
SMALLEST_ERROR = 1e-9

Choices = dict[int, tuple[ExampleChoice, ...]]


class KeptScores(NamedTuple):
    """What one attack at ascending eps left of each of N images: scores on clean images, better up (N,); the share
    that was kept (eps, N); and scores by other opinions, of a second head or after rounding (eps, N).
    """

    clean: Floats
    kept: Floats
    other: Floats


def chosen(shares: KeptScores, ids: Sequence[str], count: int, seed: int) -> tuple[int, dict[ChoiceKind, list[int]]]:
    """Extreme images: `count` of each kind, or fewer where there are not so many.

    Only images that count are looked at: those whose clean score is no worse than the median. The eps is the smallest
    that broke at least half of them, or the largest. Most damaged are those that kept least, barely broken the broken
    ones that kept most, survivors the others that kept most. Where images keep the same share, what they kept at all
    eps decides, then the other opinions, then the seed.

    Returns:
        place of the eps on the ladder, and places of images by kind.
    """
    with np.errstate(invalid="ignore"):
        counts = np.isfinite(shares.kept).all(0) & (shares.clean > 0) & (shares.clean >= np.nanmedian(shares.clean))
    able = np.flatnonzero(counts)
    if not able.size:
        return 0, {}
    broken = shares.kept <= BROKEN
    level = next((k for k, some in enumerate(broken) if some[able].mean() >= BROKEN), len(broken) - 1)
    lots = [hashlib.sha256(f"{seed}/{ids[int(position)]}".encode()).hexdigest() for position in able]
    keys = shares.kept[level, able], shares.kept[:, able].mean(0), np.nan_to_num(shares.other[level, able])
    ascending = [int(able[k]) for k in np.lexsort((np.array(lots), *reversed(keys)))]
    most = ascending[:count]
    left = [position for position in reversed(ascending) if position not in most]
    return level, {
        "most damaged": most,
        "barely broken": [position for position in left if broken[level, position]][:count],
        "survived": [position for position in left if not broken[level, position]][:count],
    }


def finish_examples(plan: Plan, store: Store, remaker: ImageRemaker) -> list[FailedCompletion]:
    """Store the examples of all cells of the plan that are in the store and lack them, random and extreme ones.

    Extreme ones are chosen on the first encoder of the plan that has what it takes, once for the same images of a
    dataset: a choice that the store holds stands, so that encoders evaluated later show the same images.

    Returns:
        what failed; cells and other examples are as they were.
    """
    return _Finish(plan, store, remaker).finish()


class _Finish:
    """The last stage of one execution of a plan."""

    def __init__(self, plan: Plan, store: Store, remaker: ImageRemaker) -> None:
        self.plan, self.store, self.remaker = plan, store, remaker
        self.lost: list[FailedCompletion] = []

    def finish(self) -> list[FailedCompletion]:
        """Choose and complete, dataset by dataset."""
        by_data: dict[Hashable, list[EncoderOnDataset]] = {}
        for pair in self.plan.pairs:
            by_data.setdefault(_images_of(pair), []).append(pair)
        for pairs in by_data.values():
            self._dataset(pairs)
        return self.lost

    def _dataset(self, pairs: Sequence[EncoderOnDataset]) -> None:
        try:
            choices = self._choices(pairs)
        except (UserError, RuntimeError, OSError) as error:
            self.lost.append(FailedCompletion(f"{pairs[0].data.name}: extreme examples", error))
            return
        for pair in pairs:
            for number, job in enumerate(pair.jobs):
                if job.source:
                    continue
                try:
                    self._complete(pair, number, choices)
                except UnwritableError:
                    raise
                except (UserError, RuntimeError, OSError, MemoryError) as error:
                    self.lost.append(FailedCompletion(f"{pair.label}: examples of {job.name}", error))

    def _choices(self, pairs: Sequence[EncoderOnDataset]) -> Choices:
        """Why images are examples, by place: as the store holds it, and for tasks of which it holds too few, anew."""
        suite, data = self.plan.suite, pairs[0].data
        found = self._held(pairs[0]) if suite.extreme_examples else {}
        for task in pairs[0].head_keys:
            held = [c for choices in found.values() for c in choices if c.task == task and c.kind == "most damaged"]
            if len(held) < suite.extreme_examples:
                for position, choice in self._chosen(pairs, task):
                    found.setdefault(position, {})[choice] = None
        for position in example_places(data.kept_ids, suite.examples, suite.seed):
            found[position] = {RANDOM: None} | found.get(position, {})
        return {position: tuple(choices) for position, choices in found.items()}

    def _held(self, pair: EncoderOnDataset) -> dict[int, dict[ExampleChoice, None]]:
        """What the store holds of the images of a pair, chosen on any encoder: by position the choices in order."""
        groups = {r.group: None for r in self.store.records() if _images_of_record(r) == _images_of(pair)}
        found: dict[int, dict[ExampleChoice, None]] = {}
        for group in filter(None, map(self.store.group, groups)):
            for example in group.examples:
                for choice in example.chosen:
                    if choice.kind != "random":
                        found.setdefault(example.position, {})[choice] = None
        return found

    def _chosen(self, pairs: Sequence[EncoderOnDataset], task: str) -> list[tuple[int, ExampleChoice]]:
        suite = self.plan.suite
        for pair in pairs:
            job = next((job for job in pair.jobs if job.target_task == task), None)
            shares = self._shares(pair, job, task) if job else None
            if job and shares:
                level, positions = chosen(shares, pair.data.kept_ids, suite.extreme_examples, suite.seed)
                attack, encoder = job.levels[level].attack, pair.encoder.card.name
                return [
                    (position, ExampleChoice(kind=kind, task=task, attack=attack, encoder=encoder))
                    for kind, some in positions.items()
                    for position in some
                ]
        return []

    def _shares(self, pair: EncoderOnDataset, job: AttackJob, task: str) -> KeptScores | None:
        """What a job left of every image; None where it, or the clean images, are not in the store."""
        clean = next((job.levels[0] for job in pair.jobs if job.levels[0].attack.name == "clean"), None)
        cells = [_cell(level, task) for level in (clean, *job.levels) if level]
        if clean is None or not all(self.store.has(cell.fingerprint) for cell in cells):
            return None
        judge = load_task(task, pair.data.spaces[task])
        scores = [_scores(self.store, cell, judge) for cell in cells]
        own = np.stack([some[0] for some in scores])
        other = np.stack([np.mean(some[1:], axis=0) for some in scores])
        return KeptScores(own[0], share_kept(own[0], own[1:]), other[1:])

    def _complete(self, pair: EncoderOnDataset, number: int, choices: Choices) -> None:
        """Add the chosen images that the examples of a job lack."""
        job = pair.jobs[number]
        whole = [level for level in job.levels if all(self.store.has(cell.fingerprint) for cell in level.cells)]
        groups = {level.group: self.store.group(level.group) for level in whole}
        lacking = sorted({p for group in groups.values() for p in choices if not _has(group, p)})
        made = self.remaker.images(pair, number, lacking, "examples") if lacking else [[] for _ in job.levels]
        setting = ExampleContext(pair.encoder.card.name, pair.data, pair.heads.views)
        for level, some in zip(job.levels, made, strict=True):
            if level.group in groups and not _is_complete(groups[level.group], choices):
                group = groups[level.group] or new_group(level.group, setting, level.attack, job.target_task)
                new = [one for one in some if not _has(group, one.position)]
                add_examples(self.store, group, setting, new, choices)


def _images_of(pair: EncoderOnDataset) -> tuple[Hashable, ...]:
    return (pair.data.name, pair.digest, pair.data.split, fingerprint(list(pair.data.kept_ids)))


def _images_of_record(record: Record) -> tuple[Hashable, ...]:
    return (record.dataset, record.dataset_digest, record.split, record.image_ids_digest)


def _cell(level: EpsLevel, task: str) -> Cell:
    return next(cell for cell in level.cells if cell.task == task)


def _is_complete(group: Group | None, choices: Choices) -> bool:
    """Whether a group has every image that was chosen, with every reason."""
    held = {example.position: example.chosen for example in group.examples} if group else {}
    return all(set(reasons) <= set(held.get(position, ())) for position, reasons in choices.items())


def _has(group: Group | None, position: int) -> bool:
    return group is not None and any(example.position == position for example in group.examples)


def _scores(store: Store, cell: Cell, task: Task) -> list[Floats]:
    """Scores of each image, better up (N,): as counted, after rounding to 8 bits, and a second head's if there is."""
    scores = row_scores(store, cell.fingerprint, task)
    return scores if task.higher_is_better else [1 / np.maximum(some, SMALLEST_ERROR) for some in scores]
