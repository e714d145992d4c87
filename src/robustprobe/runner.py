"""What a plan lacks is attacked, judged and stored."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from robustprobe import probing
from robustprobe.datasets import Dataset
from robustprobe.device import return_free_memory
from robustprobe.evaluation import Work, evaluate
from robustprobe.examples import ExampleWriter, example_places
from robustprobe.planning import Bench, Cell, Job, Plan, Rung, bench_batch
from robustprobe.provenance import provenance
from robustprobe.spec import Suite, fingerprint
from robustprobe.stats import Estimate
from robustprobe.store import CheckFact, HeadFacts, Interval, Record, Store
from robustprobe.tally import Tally
from robustprobe.tasks import Model
from robustprobe.trust import Check

# Images between two times that free memory is given back.
TRIM_EVERY = 256
Probes = Mapping[str, tuple[Model, probing.Fitted]]


class Progress(NamedTuple):
    """What a run works on, and how many of its images are done. `finished` ends a stage."""

    label: str
    completed: int
    total: int
    finished: bool = False


class Failure(NamedTuple):
    """A job that failed, and why."""

    label: str
    reason: str


Notify = Callable[[Progress], None]


def execute(plan: Plan, store: Store, notify: Notify) -> list[Failure]:
    """Do what the plan lacks. Every finished cell is on disk before the next one starts.

    Returns:
        jobs that failed for another reason than a mistake of the user's; the rest is done all the same.

    Raises:
        UserError: a mistake that only the work itself could reveal, such as a corrupt image.
    """
    failures = []
    for bench in plan.benches:
        if not bench.left:
            continue
        try:
            probes = _fit(plan, bench, notify)
        except (RuntimeError, OSError) as error:
            failures.append(Failure(f"{bench.label}: heads", str(error)))
            continue
        for job in bench.left:
            label = f"{bench.label}: {job.name}"
            try:
                _run_job(plan, store, bench, job, probes, partial(_labelled, notify, label))
            except (RuntimeError, OSError) as error:
                failures.append(Failure(label, str(error)))
    return failures


def _labelled(notify: Notify, label: str, progress: Progress) -> None:
    notify(progress._replace(label=label))


def _fit(plan: Plan, bench: Bench, notify: Notify) -> Probes:
    label = f"{bench.label}: heads"
    probes = probing.fit_probes(
        bench.encoder,
        bench.train,
        list(bench.head_keys),
        spec=plan.suite.head,
        device=plan.device,
        notify=lambda stage, done, total: notify(Progress(f"{label}, {stage}", done, total)),
    )
    notify(Progress(label, len(bench.train.train), len(bench.train.train), finished=True))
    return probes


def _run_job(plan: Plan, store: Store, bench: Bench, job: Job, probes: Probes, notify: Notify) -> None:
    start, suite, data = time.monotonic(), plan.suite, bench.data
    models = {task: model for task, (model, _) in probes.items()}
    specs = tuple(rung.attack for rung in job.rungs)
    view = next(iter(models.values())).view
    batch_size = bench_batch(suite.batch_size, bench.encoder, view, data)
    work = Work(
        bench.encoder, models, data, specs, job.made_for, list(models), batch_size, suite.precision, plan.device
    )
    writers = [
        ExampleWriter(store, rung.group, work, rung.attack, job.made_for, _places(suite, data, suite.examples))
        for rung in job.rungs
    ]
    tallies, done = [Tally(work, rung.attack, _places(suite, data, suite.checks)) for rung in job.rungs], 0
    for judgements in evaluate(work):
        for writer, tally, judged in zip(writers, tallies, judgements, strict=True):
            writer.add(judged)
            tally.add(judged)
        before, done = done, done + len(judgements[0].batch.ids)
        if before // TRIM_EVERY != done // TRIM_EVERY:
            return_free_memory()
        notify(Progress("", done, len(data)))
    for writer, tally, rung in zip(writers, tallies, job.rungs, strict=True):
        writer.finish()
        checks = tally.checks()
        for cell in rung.cells:
            seconds = (time.monotonic() - start) / len(job.rungs)
            _store_cell(
                plan, store, bench, Finished(job.made_for, rung, cell, tally, checks[cell.task], seconds), probes
            )
    notify(Progress("", len(data), len(data), finished=True))


def _places(suite: Suite, data: Dataset, count: int) -> set[int]:
    return example_places(data.kept_ids, count, suite.seed)


class Finished(NamedTuple):
    """A cell whose images are all judged."""

    made_for: str
    rung: Rung
    cell: Cell
    tally: Tally
    checks: list[Check]
    seconds: float


def _store_cell(plan: Plan, store: Store, bench: Bench, finished: Finished, probes: Probes) -> None:
    cell, rung, tally = finished.cell, finished.rung, finished.tally
    model, fitted = probes[cell.task]
    exact, rounded = tally.columns(cell.task), tally.columns(cell.task, rounded=True)
    columns: dict[str, Any] = {
        "id": tally.ids,
        "perturbation": tally.size.numpy(),
        **exact,
        **{f"{name}_8bit": v for name, v in rounded.items()},
    }
    digest = store.write_rows(cell.fingerprint, columns)
    card, suite, data = bench.encoder.card, plan.suite, bench.data
    record = Record(
        fingerprint=cell.fingerprint,
        group=rung.group,
        suite=suite.name,
        encoder=card.name,
        encoder_digest=bench.encoder.digest,
        encoder_licence=card.licence,
        dataset=data.name,
        dataset_digest=data.digest(),
        split=data.split,
        image_size=data.size,
        image_ids_digest=fingerprint(tally.ids),
        task=cell.task,
        made_for=finished.made_for,
        attack=rung.attack,
        precision=suite.precision,
        metric=model.task.metric,
        unit=model.task.unit,
        higher_is_better=model.task.higher_is_better,
        n=len(tally.ids),
        metrics=_intervals(model.task.estimates(exact)),
        metrics_8bit=_intervals(model.task.estimates(rounded)),
        largest_perturbation=float(tally.size.max()),
        checks=tuple(CheckFact(**check._asdict()) for check in finished.checks),
        cost=tally.cost,
        head=HeadFacts(
            fingerprint=bench.head_keys[cell.task],
            recipe=suite.head.model_dump(mode="json"),
            learning_rate=fitted.learning_rate,
            reads=f"{fitted.design.pooling} of {fitted.design.layers}",
            view=model.view.label,
            held_out_score=fitted.held_out_score,
            train_images=len(bench.train.train),
        ),
        rows_sha256=digest,
        provenance=provenance(finished.seconds, str(plan.device)),
    )
    store.write_record(record)


def _intervals(metrics: Mapping[str, Estimate]) -> dict[str, Interval]:
    return {name: Interval(**e._asdict()) for name, e in metrics.items()}
