"""The second reading of a curve: the teacher's heads are kept, so that only the features have changed under them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import torch

from robustprobe import probing
from robustprobe.attacks import Attack
from robustprobe.attacks.base import target_tasks
from robustprobe.core.attack_spec import AttackChoice
from robustprobe.core.registry import attacks
from robustprobe.core.spec import DatasetSpec, Suite
from robustprobe.datasets import Dataset, find_dataset, load_dataset
from robustprobe.encoders import Encoder, load_encoder
from robustprobe.evaluation.checkpoints import CheckpointScore, checkpoint_names
from robustprobe.evaluation.collect import RowCollector
from robustprobe.evaluation.evaluate import EvaluationSpec, evaluate
from robustprobe.evaluation.plan import task_names
from robustprobe.tasks import Model, fitting_attacks

Probes = Mapping[str, Model]


def kept_heads(suite: Suite, folder: Path, root: Path, device: torch.device) -> list[CheckpointScore]:
    """Numbers of every checkpoint under heads that were fitted on epoch 0, the teacher. Nothing is stored.

    Args:
        suite: its datasets, attacks and head recipe; its encoders are not read.

    Raises:
        UserError: no checkpoints, unknown names, missing data.
    """
    names = checkpoint_names(folder)
    teacher = load_encoder(next(iter(names))).to(device)
    found: list[CheckpointScore] = []
    for wanted in suite.datasets:
        data, probes = _probes(suite, teacher, wanted, root, device)
        for name, epoch in names.items():
            student = load_encoder(name).to(device)
            models = {t: Model(student, m.head, m.task, m.view, m.knn_head) for t, m in probes.items()}
            for work in _works(suite, student, models, data, device):
                found += _points(work, epoch)
    return sorted(found, key=lambda p: (p.dataset, p.task, p.epoch))


def _probes(
    suite: Suite, teacher: Encoder, wanted: DatasetSpec, root: Path, device: torch.device
) -> tuple[Dataset, Probes]:
    names = task_names(suite, find_dataset(wanted.name, root=root, tasks=suite.tasks or ()))
    heads = probing.plan_heads(teacher, wanted, suite.head, root=root, tasks=names)
    data = load_dataset(wanted.name, root=root, split=wanted.split, limit=wanted.limit, size=heads.size, tasks=names)
    return data, {task: model for task, (model, _) in heads.fit(device).items()}


def _works(
    suite: Suite, student: Encoder, models: Probes, data: Dataset, device: torch.device
) -> Iterator[EvaluationSpec]:
    for choice in suite.attacks or (AttackChoice(name="clean"), AttackChoice(name="embed")):
        kind = cast(type[Attack], attacks.get(choice.name))
        specs = suite.attack_specs(choice, kind.steps, kind.warm_start, tuning=kind.tuning)
        for task in target_tasks(choice.name, fitting_attacks(models, choice.objective)):
            yield EvaluationSpec(
                student, models, data, specs, task, list(models), suite.batch_size, suite.precision, device
            )


def _points(work: EvaluationSpec, epoch: int) -> list[CheckpointScore]:
    collectors = [RowCollector(spec, set()) for spec in work.attacks]
    for batch in evaluate(work):
        for collector, judged in zip(collectors, batch, strict=True):
            collector.take(judged)
    for collector in collectors if work.target_task else ():
        collector.choose(work.models[work.target_task].task)
    judges = [work.target_task] if work.target_task else work.judges
    return [_point(work, collector, judge, epoch) for collector in collectors for judge in judges]


def _point(work: EvaluationSpec, collector: RowCollector, judge: str, epoch: int) -> CheckpointScore:
    task = work.models[judge].task
    estimate = task.estimates(collector.columns(judge))[task.metric]
    numbers = (estimate.value, estimate.ci_low, estimate.ci_high)
    attack = collector.spec.sized_label
    return CheckpointScore(epoch, work.dataset.name, judge, attack, *numbers, task.metric, task.unit)
