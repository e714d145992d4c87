"""The record of a cell: everything that its number depends on, beside the number."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from robustprobe import probing
from robustprobe.attacks import attack_class, recorded_access
from robustprobe.core.fingerprints import fingerprint
from robustprobe.core.shared_names import shared_name
from robustprobe.core.spec import Suite
from robustprobe.core.types import HeadDesign
from robustprobe.evaluation.cells import Cell, EncoderOnDataset
from robustprobe.evaluation.running_job import RunningJob
from robustprobe.metrics.intervals import Estimate
from robustprobe.metrics.statistics import GROUP, Columns, drift_estimates, patch_estimates
from robustprobe.probing import Fitted
from robustprobe.results.records import CheckFact, HeadFacts, Interval, Provenance, Record
from robustprobe.results.store import Store
from robustprobe.tasks import Task, load_task


class _Judged(NamedTuple):
    """Columns of rows, the same after rounding to 8 bits, groups of images if there are any, and the digest."""

    exact: Columns
    rounded: Columns
    groups: Sequence[int] | None
    digest: str


def store_cell(
    store: Store, running: RunningJob, number: int, cell: Cell, checks: Sequence[CheckFact], source: Provenance
) -> Record:
    """Write the rows of a cell at the eps of a `number`, then its record, which is returned."""
    collector = running.collectors[number]
    exact, rounded = collector.columns(cell.task), collector.columns(cell.task, rounded=True)
    groups = running.pair.data.groups()
    grouped = {} if groups is None else {GROUP: np.asarray(groups)}
    columns: dict[str, Any] = {
        "id": collector.ids,
        "perturbation": collector.size.numpy(),
        **collector.choices(),
        **exact,
        **{f"{name}_8bit": v for name, v in rounded.items()},
        **grouped,
    }
    digest = store.write_rows(cell.fingerprint, columns)
    judged = _Judged({**exact, **grouped}, {**rounded, **grouped}, groups, digest)
    record = _record(running, number, cell, judged, checks, source)
    store.write_record(record)
    return record


def _record(
    running: RunningJob, number: int, cell: Cell, judged: _Judged, checks: Sequence[CheckFact], source: Provenance
) -> Record:
    """The record of a cell whose rows are stored."""
    pair, level, suite = running.pair, running.job.levels[number], running.suite
    card, data, task = pair.encoder.card, pair.data, load_task(cell.task, pair.data.spaces[cell.task])
    kind, source_pair, collector = attack_class(level.attack), running.job.source, running.collectors[number]
    groups = judged.groups
    return Record(
        fingerprint=cell.fingerprint,
        group=level.group,
        suite=suite.name,
        encoder=card.name,
        encoder_digest=pair.encoder.digest,
        encoder_licence=card.licence,
        encoder_spec=shared_name(card.spec),
        encoder_teacher=shared_name(card.teacher),
        encoder_method=card.method,
        encoder_epoch=card.epoch,
        encoder_run=card.run,
        encoder_notes=card.notes,
        dataset=data.name,
        dataset_digest=pair.digest,
        dataset_content=pair.content,
        split=data.split,
        image_size=data.size,
        image_ids_digest=fingerprint(collector.ids),
        task=cell.task,
        target_task=running.job.target_task,
        source_encoder=source_pair.encoder.card.name if source_pair else "",
        source_digest=source_pair.encoder.digest if source_pair else "",
        attack=level.attack.shared,
        attack_at=suite.attack_at,
        access=recorded_access(kind),
        uses_training=kind.uses_training,
        citation=kind.citation,
        precision=suite.precision,
        metric=task.metric,
        statistic=task.statistics.get(task.metric),
        chance=task.chance(judged.exact),
        chance_answer=task.chance_answer,
        unit=task.unit,
        higher_is_better=task.higher_is_better,
        n=len(collector.ids),
        groups=len(set(groups or ())),
        absent_classes=task.absent_classes(judged.exact),
        metrics=_metrics(task, judged.exact),
        metrics_8bit=_intervals(task.estimates(judged.rounded)),
        largest_perturbation=float(collector.size.max()),
        checks=tuple(checks),
        checked_images=len(running.checked)
        if running.kept[number] and running.job.is_checked_again(level.attack)
        else 0,
        cost=collector.cost,
        feature_gaps=collector.feature_gaps(None if groups is None else np.unique(groups, return_inverse=True)[1]),
        head=_head_facts(pair, suite, cell.task, running.heads[cell.task]),
        rows_sha256=judged.digest,
        provenance=source,
    )


def _metrics(task: Task, rows: Columns) -> dict[str, Interval]:
    """Every metric of a task, embedding drift, and scores beside a patch."""
    beside = patch_estimates(task.metric, task.statistics[task.metric], rows)
    return _intervals(task.estimates(rows) | drift_estimates(rows) | beside)


def _head_facts(pair: EncoderOnDataset, suite: Suite, task: str, fitted: Fitted) -> HeadFacts:
    view = replace(pair.heads.views[task], layers=fitted.design.layers)
    own = probing.spec_of_task(suite.head, task)
    return HeadFacts(
        fingerprint=pair.head_keys[task],
        recipe=own.facts(),
        learning_rate=fitted.learning_rate,
        reads=_reads(fitted.design),
        view=view.label,
        held_out_score=fitted.held_out_score,
        train_images=pair.heads.train_images if own.zero_shot is None else 0,
    )


def _reads(design: HeadDesign) -> str:
    hidden = f", hidden layer of {design.hidden}" if design.hidden else ""
    return f"{design.pooling} of {design.layers}{hidden}"


def _intervals(metrics: Mapping[str, Estimate]) -> dict[str, Interval]:
    return {name: Interval(**e._asdict()) for name, e in metrics.items()}
