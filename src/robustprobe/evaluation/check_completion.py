"""Sanity checks of finished cells, made on as many images as a later run asks for; numbers stay as they are."""

from collections.abc import Sequence

from robustprobe.core.errors import UnwritableError, UserError
from robustprobe.core.types import SanityCheck
from robustprobe.evaluation.cells import EncoderOnDataset, Plan
from robustprobe.evaluation.collect import KeptImage, largest_group
from robustprobe.evaluation.examples import example_places
from robustprobe.evaluation.remade_images import FailedCompletion, ImageRemaker
from robustprobe.results.records import CheckFact
from robustprobe.results.store import Store


def finish_checks(plan: Plan, store: Store, remaker: ImageRemaker) -> list[FailedCompletion]:
    """Check the finished cells of a plan that were checked on fewer images than its suite asks for.

    Returns:
        what failed; the cells are as they were.
    """
    lost = []
    for pair in plan.pairs:
        for number, job in enumerate(pair.jobs):
            try:
                _finish(plan, store, remaker, pair, number)
            except UnwritableError:
                raise
            except (UserError, RuntimeError, OSError, MemoryError) as error:
                lost.append(FailedCompletion(f"{pair.label}: sanity checks of {job.name}", error))
    return lost


def _finish(plan: Plan, store: Store, remaker: ImageRemaker, pair: EncoderOnDataset, number: int) -> None:
    suite, levels = plan.suite, pair.jobs[number].levels
    count = suite.checked_images(len(pair.data))
    lacking = [
        [r for cell in level.cells if (r := store.whole_record(cell.fingerprint)) and r.checked_images < count]
        if pair.jobs[number].is_checked_again(level.attack)
        else []
        for level in levels
    ]
    if not any(lacking):
        return
    positions = sorted(example_places(pair.data.kept_ids, count, suite.seed))
    made = remaker.images(pair, number, positions, "sanity checks")
    kept: list[list[KeptImage]] = [some if records else [] for some, records in zip(made, lacking, strict=True)]
    chance = {record.task: record.chance for records in lacking for record in records}
    for records, some, found in zip(lacking, kept, remaker.check(pair, number, kept, chance), strict=True):
        for record in records:
            of_all = [check for check in record.checks if not check.images]
            checks = (*of_all, *facts_of_some(found.get(record.task, []), some))
            store.write_record(record.model_copy(update={"checks": checks, "checked_images": count}))


def facts_of_some(checks: Sequence[SanityCheck], kept: Sequence[KeptImage]) -> list[CheckFact]:
    """Checks that were made by attacking some images again, as a record holds them."""
    count = len(largest_group(kept)) if kept else 0
    return [CheckFact(**check._asdict(), images=count) for check in checks]
