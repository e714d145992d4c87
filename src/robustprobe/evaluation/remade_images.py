"""Images of finished cells, attacked once more: to be shown, or for the attack to be checked on them.

On a CPU in fp32 that gives the same bits as before; elsewhere the same images to rounding.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from robustprobe.evaluation.cells import EncoderOnDataset, EpsLevel, PairKey, Plan
from robustprobe.evaluation.collect import CHOICE, Judged, KeptImage
from robustprobe.evaluation.executors import AttackTask, CheckAttack, FitHeads, JudgeImages, RunSpec, WorkerState
from robustprobe.evaluation.executors.work import Findings, Heads
from robustprobe.results.store import Store

Tell = Callable[[str, int, int], None]


class FailedCompletion(NamedTuple):
    """What could not be added to finished cells, and why."""

    label: str
    error: Exception


class ImageRemaker:
    """Attacks images of a plan's jobs again, in this process."""

    def __init__(self, plan: Plan, store: Store, run_spec: RunSpec, notify: Tell, say: Callable[[str], None]) -> None:
        self.store, self.notify, self.say = store, notify, say
        self.worker = WorkerState(run_spec, plan.pairs)
        self.heads: dict[PairKey, Heads] = {}
        self.told: set[tuple[PairKey, str]] = set()

    def images(
        self, pair: EncoderOnDataset, number: int, positions: Sequence[int], purpose: str
    ) -> list[list[KeptImage]]:
        """Images at `positions` of the dataset under the job of a `number`, an entry per eps; `purpose` is shown."""
        if (pair.key, purpose) not in self.told:
            self.told.add((pair.key, purpose))
            count = f"{len(positions)} images are" if len(positions) > 1 else "1 image is"
            self.say(f"{pair.label}: {count} attacked again, for {purpose}")
        task, names = _task(pair, number, positions), tuple(pair.data.kept_ids[p] for p in positions)

        def notify(stage: str, done: int, total: int) -> None:
            self.notify(f"{pair.label}: {purpose} of {pair.jobs[number].name}", done, total)

        shard = self.worker.judge(JudgeImages(task, names, 0), self._heads(pair), notify, self.say)
        chosen = [self._choice(level, task.target_task) for level in pair.jobs[number].levels]
        return [
            [one for pieces in shard.batches for one in _as_counted(pieces[k], choice).kept]
            for k, choice in enumerate(chosen)
        ]

    def _choice(self, level: EpsLevel, task: str) -> NDArray[np.int64] | None:
        """Which search made the image that counts, of all images of a finished cell; None where there was no choice."""
        cell = next((cell for cell in level.cells if cell.task == task and self.store.has(cell.fingerprint)), None)
        rows = self.store.rows(cell.fingerprint) if cell else None
        return rows[CHOICE].to_numpy() if rows is not None and CHOICE in rows.schema.names else None

    def check(
        self,
        pair: EncoderOnDataset,
        number: int,
        kept: Sequence[Sequence[KeptImage]],
        chance: Mapping[str, float | None],
    ) -> Findings:
        """What the sanity checks of a job find on images, an entry per eps each; `chance` as in `CheckAttack`."""
        task = _task(pair, number, [one.position for one in kept[0]])
        return self.worker.check(CheckAttack(task, tuple(kept), chance), self._heads(pair))

    def _heads(self, pair: EncoderOnDataset) -> Heads:
        if pair.key not in self.heads:
            self.heads[pair.key] = self.worker.fit(FitHeads(pair.key), _unheard)
        return self.heads[pair.key]


def _as_counted(piece: Judged, choice: NDArray[np.int64] | None) -> Judged:
    return piece if choice is None else piece.chosen(torch.from_numpy(choice[piece.positions.numpy()]))


def _task(pair: EncoderOnDataset, number: int, positions: Sequence[int]) -> AttackTask:
    job = pair.jobs[number]
    return AttackTask(
        pair.key, number, job.target_task, tuple(level.attack for level in job.levels), frozenset(positions)
    )


def _unheard(stage: str, done: int, total: int) -> None:
    """Heads come from the cache."""
