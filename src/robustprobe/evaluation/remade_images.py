"""Images of finished cells, attacked once more: to be shown, or for the attack to be checked on them.

On a CPU in fp32 that gives the same bits as before; elsewhere the same images to rounding.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from robustprobe.evaluation.collect import KeptImage
from robustprobe.evaluation.executors import AttackTask, CheckAttack, FitHeads, JudgeImages, RunSpec, WorkerState
from robustprobe.evaluation.executors.work import Findings, Heads
from robustprobe.evaluation.plan import EncoderOnDataset, PairKey, Plan

Tell = Callable[[str, int, int], None]


class FailedCompletion(NamedTuple):
    """What could not be added to finished cells, and why."""

    label: str
    error: Exception


class ImageRemaker:
    """Attacks images of a plan's jobs again, in this process."""

    def __init__(self, plan: Plan, run_spec: RunSpec, notify: Tell, say: Callable[[str], None]) -> None:
        self.notify, self.say = notify, say
        self.worker = WorkerState(run_spec, plan.pairs)
        self.heads: dict[PairKey, Heads] = {}

    def images(
        self, pair: EncoderOnDataset, number: int, positions: Sequence[int], purpose: str
    ) -> list[list[KeptImage]]:
        """Images at `positions` of the dataset under the job of a `number`, an entry per eps; `purpose` is shown."""
        task, names = _task(pair, number, positions), tuple(pair.data.kept_ids[p] for p in positions)

        def notify(stage: str, done: int, total: int) -> None:
            self.notify(f"{pair.label}: {purpose} of {pair.jobs[number].name}", done, total)

        shard = self.worker.judge(JudgeImages(task, names, 0), self._heads(pair), notify, self.say)
        return [[one for pieces in shard.batches for one in pieces[k].kept] for k in range(len(task.attacks))]

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


def _task(pair: EncoderOnDataset, number: int, positions: Sequence[int]) -> AttackTask:
    job = pair.jobs[number]
    return AttackTask(
        pair.key, number, job.target_task, tuple(level.attack for level in job.levels), frozenset(positions)
    )


def _unheard(stage: str, done: int, total: int) -> None:
    """Heads come from the cache."""
