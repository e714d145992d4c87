"""A suite becomes cells; what is done is skipped; the rest is attacked, judged and stored."""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from robustprobe import probing
from robustprobe.attacks import Attack
from robustprobe.datasets import Dataset, load_dataset
from robustprobe.encoders import Encoder, load_encoder
from robustprobe.errors import UserError
from robustprobe.evaluation import Judgement, Work, evaluate
from robustprobe.examples import ExampleWriter, example_places
from robustprobe.provenance import provenance
from robustprobe.registry import attacks, datasets, source_digest
from robustprobe.spec import STANDARD_ATTACKS, AttackSpec, Suite, code_digest, fingerprint
from robustprobe.stats import Estimate
from robustprobe.store import HeadFacts, Interval, Record, Store
from robustprobe.tasks import Model, load_task

Columns = dict[str, np.ndarray]
Probes = Mapping[str, tuple[Model, probing.Fitted]]


class Cell(NamedTuple):
    """One number's worth of work: the task whose head judges, the name of everything the number depends on, and
    whether it is in the store.
    """

    task: str
    fingerprint: str
    done: bool


class Job(NamedTuple):
    """One attack at one bench, and the cells its adversarial images fill: all of them, so that examples are whole."""

    group: str
    attack: AttackSpec
    made_for: str
    cells: tuple[Cell, ...]


class Bench(NamedTuple):
    """An encoder at a dataset: images to report on, data its heads learn from, and its jobs."""

    encoder: Encoder
    data: Dataset
    train: probing.TrainData
    head_keys: dict[str, str]
    jobs: tuple[Job, ...]

    @property
    def left(self) -> list[Job]:
        """Jobs with a cell that is not done."""
        return [job for job in self.jobs if not all(cell.done for cell in job.cells)]

    @property
    def label(self) -> str:
        return f"{self.encoder.card.name} on {self.data.name}"


class Plan(NamedTuple):
    """What a run will do, before it does it. Seconds are an estimate from a short measurement on this machine."""

    suite: Suite
    root: Path
    device: torch.device
    benches: tuple[Bench, ...]
    seconds: float

    @property
    def cells(self) -> list[Cell]:
        """All cells of the run, done or not."""
        return [cell for bench in self.benches for job in bench.jobs for cell in job.cells]

    def fingerprints(self) -> set[str]:
        """Names of all cells of the run, done or not."""
        return {cell.fingerprint for cell in self.cells}


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


def make_plan(suite: Suite, store: Store, root: Path, device: torch.device, encoders: Iterable[Encoder] = ()) -> Plan:
    """Resolve every name, list every cell, and find out which of them are done.

    Args:
        encoders: encoders already loaded, used instead of the suite's names.

    Raises:
        UserError: anything that cannot be resolved, before any work is done.
    """
    suite = _with_attacks(suite)
    loaded = list(encoders) or [load_encoder(name) for name in suite.encoders]
    benches = tuple(
        _bench(suite, e.to(device), place, root, store) for e in loaded for place in range(len(suite.datasets))
    )
    seconds = sum(_seconds(suite, bench, device) for bench in benches if bench.left)
    return Plan(suite, root, device, benches, seconds)


def _with_attacks(suite: Suite) -> Suite:
    """The suite with its attacks named, each of which fits a dataset."""
    kinds = [cast(type[Dataset], datasets.get(d.name)) for d in suite.datasets]
    sees = {name: cast(type[Attack], attacks.get(name)).sees for name in suite.attacks or STANDARD_ATTACKS}
    fitting = [name for name, task in sees.items() if any(_fits(task, kind) for kind in kinds)]
    for name in suite.attacks or ():
        if name not in fitting:
            raise UserError(f"attack {name} needs {sees[name]} labels, which no dataset of this run has; leave it out.")
    return suite.model_copy(update={"attacks": tuple(fitting)})


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
            label = f"{bench.label}: {describe(job.attack, job.made_for)}"
            try:
                _run_job(plan, store, bench, job, probes, partial(_labelled, notify, label))
            except (RuntimeError, OSError) as error:
                failures.append(Failure(label, str(error)))
    return failures


def _labelled(notify: Notify, label: str, progress: Progress) -> None:
    notify(progress._replace(label=label))


def describe(attack: AttackSpec, made_for: str) -> str:
    """An attack in words."""
    return f"{attack.name} against {made_for}" if made_for else attack.name


def _fits(sees: str, dataset: type[Dataset]) -> bool:
    return sees in ("nothing", "encoder") or sees in dataset.labels


def _bench(suite: Suite, encoder: Encoder, place: int, root: Path, store: Store) -> Bench:
    wanted = suite.datasets[place]
    kind = cast(type[Dataset], datasets.get(wanted.name))
    size = wanted.size or kind.fit_size(encoder.card.input_size, encoder.card.patch_size)
    data = load_dataset(wanted.name, root=root, limit=wanted.limit, size=size)
    train = probing.train_data(wanted.name, root, size, suite.head)
    keys = {task: probing.head_fingerprint(encoder.digest, task, train, suite.head) for task in kind.labels}
    bench = Bench(encoder, data, train, keys, ())
    return bench._replace(jobs=tuple(_jobs(suite, bench, store)))


def _jobs(suite: Suite, bench: Bench, store: Store) -> list[Job]:
    jobs, data = [], bench.data.digest()
    for spec in suite.attack_specs():
        kind = cast(type[Attack], attacks.get(spec.name))
        sees = kind.sees
        if not _fits(sees, type(bench.data)):
            continue
        made_for = sees if sees in bench.head_keys else ""
        images = [bench.encoder.card.name, bench.encoder.digest, data, spec.model_dump(mode="json")]
        code = [source_digest(kind), code_digest()]
        group = [*images, bench.head_keys.get(made_for, ""), suite.precision, *code]
        names = {task: fingerprint([*group, key]) for task, key in bench.head_keys.items()}
        cells = tuple(Cell(task, name, store.has(name)) for task, name in names.items())
        jobs.append(Job(fingerprint(group), spec, made_for, cells))
    return jobs


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
    start = time.monotonic()
    models = {task: model for task, (model, _) in probes.items()}
    judges = [cell.task for cell in job.cells]
    suite = plan.suite
    work = Work(bench.encoder, models, bench.data, job.attack, judges, suite.batch_size, suite.precision, plan.device)
    places = example_places(bench.data.kept_ids, suite.examples, suite.seed)
    writer = ExampleWriter(store, job.group, work, job.made_for, places)
    judged = []
    for batch in evaluate(work):
        writer.add(batch)
        judged.append(
            batch._replace(batch=batch.batch._replace(images=torch.empty(0)), adversarial=torch.empty(0), outputs={})
        )
        notify(Progress("", sum(len(b.batch.ids) for b in judged), len(bench.data)))
    if places:
        writer.finish()
    for cell in job.cells:
        _store_cell(plan, store, bench, job, cell, probes, judged, time.monotonic() - start)
    notify(Progress("", len(bench.data), len(bench.data), finished=True))


def _store_cell(
    plan: Plan,
    store: Store,
    bench: Bench,
    job: Job,
    cell: Cell,
    probes: Probes,
    judged: list[Judgement],
    seconds: float,
) -> None:
    model, fitted = probes[cell.task]
    exact = _joined([b.rows[cell.task] for b in judged])
    rounded = _joined([b.rounded[cell.task] for b in judged])
    ids = [i for b in judged for i in b.batch.ids]
    size = torch.cat([b.size for b in judged]).numpy()
    columns: dict[str, Any] = {
        "id": ids,
        "perturbation": size,
        **exact,
        **{f"{name}_8bit": v for name, v in rounded.items()},
    }
    digest = store.write_rows(cell.fingerprint, columns)
    card, suite, data = bench.encoder.card, plan.suite, bench.data
    metrics = model.task.estimates(exact)
    record = Record(
        fingerprint=cell.fingerprint,
        group=job.group,
        suite=suite.name,
        encoder=card.name,
        encoder_digest=bench.encoder.digest,
        encoder_licence=card.licence,
        dataset=data.name,
        dataset_digest=data.digest(),
        split=data.split,
        image_size=data.size,
        image_ids_digest=fingerprint(ids),
        task=cell.task,
        made_for=job.made_for,
        attack=job.attack,
        precision=suite.precision,
        metric=model.task.metric,
        unit=model.task.unit,
        higher_is_better=model.task.higher_is_better,
        n=len(ids),
        metrics=_intervals(metrics),
        metrics_8bit=_intervals(model.task.estimates(rounded)),
        largest_perturbation=float(size.max()),
        head=HeadFacts(
            fingerprint=bench.head_keys[cell.task],
            recipe=suite.head.model_dump(mode="json"),
            learning_rate=fitted.learning_rate,
            held_out_score=fitted.held_out_score,
            train_images=len(bench.train.train),
        ),
        rows_sha256=digest,
        provenance=provenance(seconds, str(plan.device)),
    )
    store.write_record(record)


def _joined(parts: list[dict[str, torch.Tensor]]) -> Columns:
    return {name: torch.cat([p[name] for p in parts]).numpy() for name in parts[0]}


def _intervals(metrics: Mapping[str, Estimate]) -> dict[str, Interval]:
    return {name: Interval(**e._asdict()) for name, e in metrics.items()}


def _seconds(suite: Suite, bench: Bench, device: torch.device) -> float:
    """Estimated time of a bench, from one attack step on a few images and one training step of each missing head."""
    images = torch.rand(min(32, suite.batch_size, len(bench.data)), 3, *bench.data.size, device=device)
    forward, step = _time(lambda: bench.encoder(images)), _time(lambda: _one_step(bench.encoder, images))
    per_image = [job.attack.steps * step + 3 * forward for job in bench.left]
    attacking = sum(per_image) * len(bench.data) / len(images)
    kinds = {task: load_task(task, bench.data.labels[task]) for task in bench.head_keys}
    widths = bench.encoder.card.widths
    new = [k for t, k in kinds.items() if probing.load_cached(bench.head_keys[t], k, widths, suite.head) is None]
    extracting = forward * (len(bench.train.train) + len(bench.train.val)) / len(images) if new else 0.0
    return (
        attacking
        + extracting
        + sum(probing.fit_seconds(k, bench.train, bench.encoder, suite.head, device) for k in new)
    )


def _one_step(encoder: Encoder, images: torch.Tensor) -> None:
    images = images.clone().requires_grad_(True)
    torch.autograd.grad(encoder(images).patches.square().sum(), images)


def _time(call: Callable[[], object]) -> float:
    call()
    start = time.monotonic()
    call()
    call()
    return (time.monotonic() - start) / 2
