"""Every registered task keeps the contract of `Task`, and a robust number at eps 0 is the clean number."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from robustprobe import load_dataset
from robustprobe.attacks import Attack
from robustprobe.attacks.base import target_tasks
from robustprobe.core.registry import attacks, tasks
from robustprobe.core.spec import AttackSpec
from robustprobe.core.types import FeatureDims, Features, HeadDesign, LabelSpace
from robustprobe.evaluation.evaluate import EvaluationSpec, JudgedBatch, evaluate
from robustprobe.metrics.dense import mean_iou
from robustprobe.tasks import Task, load_task
from tests.conftest import SceneProbes

pytestmark = pytest.mark.contract

NAMES = tasks.names()
SPACE = LabelSpace(classes=("a", "b", "c"))
COUNT = 6
CASES = [(n, v) for n in attacks.names() for v in target_tasks(cast(type[Attack], attacks.get(n)), NAMES)]
FOR_A_TASK = [case for case in CASES if case[1]]


def task_of(name: str) -> Task:
    return load_task(name, SPACE)


def features(grid: tuple[int, int], count: int = COUNT) -> Features:
    generator = torch.Generator().manual_seed(0)
    return Features(torch.randn(count, 5, generator=generator), torch.randn(count, 7, *grid, generator=generator))


def output_of(task: Task, size: tuple[int, int], pooling: str = "cls") -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        width = FeatureDims(5, 7)
        head = task.head(width, HeadDesign(pooling=pooling)).eval()
    with torch.no_grad():
        return cast(Tensor, head(features((size[0] // 8, size[1] // 8)), size))


def target_of(name: str, size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if name == "classification":
        return torch.randint(0, 3, (COUNT,), generator=generator)
    if name == "depth":
        return (torch.rand(COUNT, *size, generator=generator) * 12 - 2).clamp(min=0)
    labels = torch.randint(0, 3, (COUNT, *size), generator=generator)
    return torch.where(torch.rand(COUNT, *size, generator=generator) < 0.2, SPACE.ignore_index, labels)


def numpy_rows(rows: dict[str, Tensor]) -> dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.float64]]"]:
    return {name: column.numpy() for name, column in rows.items()}


@pytest.mark.parametrize("pooling", ["cls", "cls+patch"])
@pytest.mark.parametrize("size", [(16, 16), (32, 48)])
@pytest.mark.parametrize("name", NAMES)
def test_output_has_the_size_of_the_image(name: str, size: tuple[int, int], pooling: str) -> None:
    expected = {"classification": (COUNT, 3), "segmentation": (COUNT, 3, *size), "depth": (COUNT, *size)}
    output = output_of(task_of(name), size, pooling)
    assert output.shape == expected[name]
    assert torch.isfinite(output).all()


@pytest.mark.parametrize("name", NAMES)
def test_training_loss_is_one_number_an_image_and_reaches_every_weight(name: str) -> None:
    task = task_of(name)
    head = task.head(FeatureDims(5, 7), HeadDesign()).eval()
    loss = task.training_loss(head(features((2, 2)), (16, 16)), target_of(name, (16, 16)))
    assert loss.shape == (COUNT,)
    assert torch.isfinite(loss).all()
    loss.sum().backward()
    for parameter in head.parameters():
        assert parameter.grad is not None
        assert (parameter.grad != 0).any()


@pytest.mark.parametrize("label_size", [(16, 16), (20, 12)])
@pytest.mark.parametrize("name", NAMES)
def test_rows_and_scores_have_a_batch_axis(name: str, label_size: tuple[int, int]) -> None:
    task = task_of(name)
    rows = task.rows(output_of(task, (16, 16)), target_of(name, label_size))
    assert rows
    assert all(len(column) == COUNT and column.ndim in (1, 2) for column in rows.values())
    score = task.score(rows)
    assert score.shape == (COUNT,)
    assert score.is_floating_point()


@pytest.mark.parametrize("name", NAMES)
def test_headline_comes_first_and_intervals_contain_values(name: str) -> None:
    task = task_of(name)
    rows = numpy_rows(task.rows(output_of(task, (16, 16)), target_of(name, (16, 16))))
    found = task.estimates(rows)
    assert next(iter(found)) == task.metric
    for estimate in found.values():
        assert estimate.ci_low <= estimate.value <= estimate.ci_high
        assert estimate.ci_low < estimate.ci_high
    assert found == task.estimates(rows)


@pytest.mark.parametrize("name", NAMES)
def test_headline_of_one_image_is_its_score(name: str) -> None:
    task = task_of(name)
    output, target = output_of(task, (16, 16)), target_of(name, (16, 16))
    for i in range(COUNT):
        rows = task.rows(output[[i]], target[[i]])
        assert task.estimates(numpy_rows(rows))[task.metric].value == pytest.approx(float(task.score(rows)))


@pytest.mark.parametrize("sizes", [[1] * 6, [4, 2], [1, 5]])
@pytest.mark.parametrize("name", NAMES)
def test_any_split_into_batches_gives_the_same_rows_and_estimates(name: str, sizes: list[int]) -> None:
    task = task_of(name)
    output, target = output_of(task, (16, 16)), target_of(name, (16, 16))
    together = task.rows(output, target)
    parts = [task.rows(o, t) for o, t in zip(output.split(sizes), target.split(sizes), strict=True)]
    joined = {column: torch.cat([p[column] for p in parts]) for column in together}
    assert all(torch.equal(joined[column], together[column]) for column in together)
    assert task.estimates(numpy_rows(joined)) == task.estimates(numpy_rows(together))


def perfect_output(name: str, target: Tensor) -> Tensor:
    if name == "depth":
        return target
    known = torch.where(target == SPACE.ignore_index, 0, target)
    return torch.nn.functional.one_hot(known, 3).movedim(-1, 1).float()


@pytest.mark.parametrize("name", NAMES)
def test_direction_of_the_metric_is_what_the_task_says(name: str) -> None:
    task, target = task_of(name), target_of(name, (16, 16)).clamp(max=255)
    target = target.clamp(max=9.5) if name == "depth" else target
    best = task.estimates(numpy_rows(task.rows(perfect_output(name, target), target)))[task.metric]
    usual = task.estimates(numpy_rows(task.rows(output_of(task, (16, 16)), target)))[task.metric]
    assert best.value == (1 if task.higher_is_better else 0)
    assert (best.value > usual.value) == task.higher_is_better


def test_miou_is_of_summed_counts_and_no_mean_over_images() -> None:
    task = task_of("segmentation")
    rows = numpy_rows(task.rows(output_of(task, (16, 16)), target_of("segmentation", (16, 16))))
    sums = [rows[c].sum(0).astype(float) for c in ("intersection", "predicted", "labelled")]
    assert task.estimates(rows)["mIoU"].value == float(mean_iou(sums[0], sums[1], sums[2]))


def judged(
    probes: SceneProbes, attack: AttackSpec, target_task: str = "", precision: str = "fp32"
) -> list[JudgedBatch]:
    data = load_dataset("scenes", root=Path("nowhere"), limit=12, size=(16, 16))
    models = {task: model for task, (model, _) in probes.fitted.items()}
    device = torch.device("cpu")
    work = EvaluationSpec(probes.encoder, models, data, (attack,), target_task, list(models), 5, precision, device)
    return [judgement for (judgement,) in evaluate(work)]


def rows_of(parts: list[JudgedBatch], rounded: bool = False) -> dict[str, Tensor]:
    rows = [p.rounded if rounded else p.rows for p in parts]
    return {f"{t} {c}": torch.cat([r[t][c] for r in rows]) for t in rows[0] for c in rows[0][t]}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "target_task"), CASES)
def test_robust_at_eps_0_equals_clean_for_every_task(
    scene_probes: SceneProbes, name: str, target_task: str, precision: str
) -> None:
    clean = judged(scene_probes, AttackSpec(name="clean", eps=0))
    robust = judged(scene_probes, AttackSpec(name=name, eps=0, steps=3), target_task, precision)
    expected, found = rows_of(clean), rows_of(robust)
    assert len(expected) >= 9
    assert all(len(column) == 12 for column in expected.values())
    assert all(torch.equal(found[c].nan_to_num(-1), expected[c].nan_to_num(-1)) for c in expected)
    # Clean images are on the 8-bit grid.
    exact, rounded = rows_of(clean), rows_of(clean, rounded=True)
    assert all(torch.equal(exact[c].nan_to_num(-1), rounded[c].nan_to_num(-1)) for c in exact)
    assert torch.cat([p.size for p in robust]).abs().max() == 0


@pytest.mark.parametrize(("name", "task"), FOR_A_TASK)
def test_attack_harms_the_task_it_is_made_for(scene_probes: SceneProbes, name: str, task: str) -> None:
    clean = judged(scene_probes, AttackSpec(name="clean", eps=0))
    robust = judged(scene_probes, AttackSpec(name=name, eps=0.2, steps=5), task)
    sizes = torch.cat([p.size for p in robust])
    assert sizes.min() > 0.1 or name == "min-eps"  # which moves as little as it can
    assert sizes.max() <= 0.2 + 1e-6
    model = scene_probes.fitted[task][0]
    before, after = (
        float(torch.cat([model.task.score(p.rows[task]) for p in run]).nanmean()) for run in (clean, robust)
    )
    assert after < before if model.task.higher_is_better else after > before
