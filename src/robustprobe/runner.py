"""A suite becomes cells; what is done is skipped; the rest is attacked, judged and stored."""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from robustprobe import probing
from robustprobe.attacks import Attack
from robustprobe.attacks._base import victims_of
from robustprobe.datasets import Dataset, find_dataset, load_dataset
from robustprobe.device import return_free_memory
from robustprobe.encoders import Encoder, load_encoder
from robustprobe.errors import UserError
from robustprobe.evaluation import Work, evaluate
from robustprobe.examples import ExampleWriter, example_places
from robustprobe.provenance import provenance
from robustprobe.recipes import recipe_of
from robustprobe.registry import attacks, source_digest
from robustprobe.spec import STANDARD_ATTACKS, AttackChoice, AttackSpec, Suite, code_digest, fingerprint
from robustprobe.stats import Estimate
from robustprobe.store import CheckFact, HeadFacts, Interval, Record, Store
from robustprobe.tally import Tally
from robustprobe.tasks import Model, load_task
from robustprobe.trust import Check
from robustprobe.views import Resized, Size, View

# Pixels that the time of a pass is measured on.
PROBE_PIXELS = 200_000
MOST_OUTPUT_BYTES = 2**30
# Images between two times that free memory is given back.
TRIM_EVERY = 256
Probes = Mapping[str, tuple[Model, probing.Fitted]]


class Cell(NamedTuple):
    """One number's worth of work: the task whose head judges, the name of everything the number depends on, and
    whether it is in the store.
    """

    task: str
    fingerprint: str
    done: bool


class Rung(NamedTuple):
    """An attack at one eps, the name of its adversarial images, and the cells they fill: all, so examples are whole."""

    group: str
    attack: AttackSpec
    cells: tuple[Cell, ...]


class Job(NamedTuple):
    """One attack at one bench, against the model of one task or none, at ascending eps."""

    made_for: str
    rungs: tuple[Rung, ...]

    @property
    def cells(self) -> list[Cell]:
        return [cell for rung in self.rungs for cell in rung.cells]

    @property
    def name(self) -> str:
        """The attack in words."""
        label = self.rungs[0].attack.label
        return f"{label} against {self.made_for}" if self.made_for else label


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
    """What a run will do, before it does it. Seconds are an estimate from a short measurement on this machine, and
    `kept_bytes` what the features of the largest dataset take while heads learn.
    """

    suite: Suite
    root: Path
    device: torch.device
    benches: tuple[Bench, ...]
    seconds: float
    kept_bytes: int = 0

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


def make_plan(
    suite: Suite,
    store: Store,
    root: Path,
    device: torch.device,
    encoders: Iterable[Encoder] = (),
    leave_out: bool = False,
) -> Plan:
    """Resolve every name, list every cell, and find out which of them are done.

    Args:
        encoders: encoders already loaded, used instead of the suite's names.
        leave_out: attacks that fit no dataset are left out; they are a mistake otherwise.

    Raises:
        UserError: anything that cannot be resolved, before any work is done.
    """
    suite = _with_attacks(suite, root, leave_out)
    loaded = list(encoders) or [load_encoder(name) for name in suite.encoders]
    benches = tuple(
        _bench(suite, e.to(device), place, root, store) for e in loaded for place in range(len(suite.datasets))
    )
    clock = PassClock(device)
    estimates = [_estimate(suite, bench, clock) for bench in benches if bench.left]
    seconds, kept = sum(e[0] for e in estimates), max((e[1] for e in estimates), default=0)
    return Plan(suite, root, device, benches, seconds, kept)


def _with_attacks(suite: Suite, root: Path, leave_out: bool) -> Suite:
    """The suite with its attacks named, each of which fits a dataset."""
    tasks = {task for d in suite.datasets for task in find_dataset(d.name, root=root).labels}
    choices = suite.attacks or tuple(AttackChoice(name=name) for name in STANDARD_ATTACKS)
    fitting = [choice for choice in choices if victims_of(_kind(choice.name), tasks)]
    for choice in suite.attacks or ():
        if choice not in fitting and not leave_out:
            needs = _kind(choice.name).sees
            raise UserError(
                f"attack {choice.name} needs {needs} labels, which no dataset of this run has; leave it out."
            )
    return suite.model_copy(update={"attacks": tuple(fitting)})


def _kind(attack: str) -> type[Attack]:
    return cast(type[Attack], attacks.get(attack))


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


def _bench(suite: Suite, encoder: Encoder, place: int, root: Path, store: Store) -> Bench:
    wanted = suite.datasets[place]
    found = find_dataset(wanted.name, root=root)
    serving = probing.served(encoder.card, found, suite.head, wanted.size)
    data = load_dataset(wanted.name, root=root, limit=wanted.limit, size=serving.size)
    train = probing.train_data(wanted.name, root, serving, suite.head)
    keys = {task: probing.head_fingerprint(encoder.digest, task, train, suite.head) for task in found.labels}
    bench = Bench(encoder, data, train, keys, ())
    return bench._replace(jobs=tuple(_jobs(suite, bench, store)))


def _jobs(suite: Suite, bench: Bench, store: Store) -> list[Job]:
    return [
        Job(made_for, tuple(_rung(suite, bench, store, spec, made_for) for spec in suite.ladder(choice, kind.steps)))
        for choice in suite.attacks or ()
        for kind in [_kind(choice.name)]
        for made_for in victims_of(kind, bench.head_keys)
    ]


def _rung(suite: Suite, bench: Bench, store: Store, spec: AttackSpec, made_for: str) -> Rung:
    images = [bench.encoder.card.name, bench.encoder.digest, bench.data.digest(), spec.model_dump(mode="json")]
    code = [source_digest(_kind(spec.name)), code_digest()]
    group = [*images, made_for, bench.head_keys.get(made_for, ""), suite.precision, suite.checks, *code]
    names = {task: fingerprint([*group, key]) for task, key in bench.head_keys.items()}
    cells = tuple(Cell(task, name, store.has(name)) for task, name in names.items())
    return Rung(fingerprint(group), spec, cells)


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


def bench_batch(wanted: int, encoder: Encoder, view: View, data: Dataset) -> int:
    """Images attacked at once: fewer where a view shows far more pixels of each than the encoder is made for, or where
    their output maps would take more than `MOST_OUTPUT_BYTES`.
    """
    size = data.typical_size
    height, width = view.output_size(size)
    channels = max((len(space.classes) for task, space in data.labels.items() if task != "classification"), default=0)
    most = MOST_OUTPUT_BYTES // (4 * height * width * channels) if channels else wanted
    if not isinstance(view, Resized):
        most = min(most, wanted * encoder.card.input_size[0] * encoder.card.input_size[1] // view.pixels(size))
    return max(1, min(wanted, most))


class PassClock:
    """Measures what passes through encoders take, once for every size of image."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.known: dict[tuple[str, Size], tuple[float, float]] = {}

    def seconds(self, encoder: Encoder, size: Size) -> tuple[float, float]:
        """Seconds an image of `size`: forward, and forward and backward."""
        key = (encoder.digest, size)
        if key not in self.known:
            many = max(1, min(32, PROBE_PIXELS // (size[0] * size[1])))
            images = torch.rand(many, 3, *size, device=self.device)
            forward, step = _time(lambda: encoder(images)), _time(lambda: _one_step(encoder, images))
            self.known[key] = forward / many, step / many
        return self.known[key]


def _estimate(suite: Suite, bench: Bench, clock: PassClock) -> tuple[float, int]:
    """Seconds of a bench, from one attack step on a few images and one training step of each missing head, and bytes
    of features that are kept meanwhile.
    """
    view = next(iter(bench.train.views.values()))
    size = bench.data.typical_size
    part = view.part_size(size)
    parts = view.pixels(size) / (part[0] * part[1])
    forward, step = (parts * seconds for seconds in clock.seconds(bench.encoder, part))
    rungs = [rung for job in bench.left for rung in job.rungs]
    extra = 1 + 2 * min(suite.checks, len(bench.data)) / len(bench.data)
    attacking = sum(rung.attack.steps * rung.attack.restarts * step * extra + 3 * forward for rung in rungs)
    heads, kept = _head_seconds(suite, bench, clock.device, forward)
    return attacking * len(bench.data) + heads, kept


def _head_seconds(suite: Suite, bench: Bench, device: torch.device, forward: float) -> tuple[float, int]:
    """Seconds until missing heads are fitted, of `forward` an image, and bytes of features kept for them."""
    seconds, kept, train = 0.0, 0, bench.train
    for name, key in bench.head_keys.items():
        task = load_task(name, bench.data.labels[name])
        if probing.is_cached(key, task, bench.encoder.card.widths):
            continue
        recipe = recipe_of(suite.head, name)
        if recipe.augment == "none":
            kept = max(kept, probing.kept_features(bench.encoder, train.views[name], train))
        else:
            seconds += forward * (probing.images_seen(recipe, len(train.train)) + len(train.val))
        seconds += probing.fit_seconds(task, train, bench.encoder, suite.head, device)
    return seconds + (forward * (len(train.train) + len(train.val)) if kept else 0.0), kept


def _one_step(encoder: Encoder, images: torch.Tensor) -> None:
    images = images.clone().requires_grad_(True)
    torch.autograd.grad(encoder(images).patches.square().sum(), images)


def _time(call: Callable[[], object]) -> float:
    call()
    start = time.monotonic()
    call()
    call()
    return (time.monotonic() - start) / 2
