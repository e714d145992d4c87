"""Every registered task keeps the contract of `Task`, and a robust number at eps 0 is the clean number."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from robustprobe import UserError, load_dataset
from robustprobe.attacks import Attack
from robustprobe.attacks.base import target_tasks
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.registry import attacks, tasks
from robustprobe.core.types import FeatureDims, Features, HeadDesign, LabelSpace
from robustprobe.evaluation.collect import Judged
from robustprobe.evaluation.evaluate import EvaluationSpec, evaluate
from robustprobe.metrics.dense import mean_iou
from robustprobe.tasks import Task, fitting_attacks, load_task, task_kind
from tests.conftest import SceneProbes

pytestmark = pytest.mark.contract

NAMES = tasks.names()
TRAINED = [name for name in NAMES if task_kind(name).trains]
MADE = [name for name in NAMES if name not in TRAINED]
SPACE = LabelSpace(classes=("a", "b", "c"))
COUNT = 6
# Corruptions have a severity in place of a ball, and what is made on training images needs some.
KINDS = {name: cast(type[Attack], attacks.get(name)) for name in attacks.names()}
MADE_PER_IMAGE = [name for name, kind in KINDS.items() if not (kind.own_unit or kind.uses_training)]
CASES = [(n, v) for n in MADE_PER_IMAGE for v in target_tasks(n, fitting_attacks(NAMES))]
LABELLED = load_dataset("scenes", root=Path("nowhere"), limit=1, size=(16, 16)).labels
FOR_A_TASK = [case for case in CASES if case[1] in LABELLED]


def task_of(name: str) -> Task:
    return load_task(name, SPACE)


def features(grid: tuple[int, int], count: int = COUNT) -> Features:
    generator = torch.Generator().manual_seed(0)
    return Features(torch.randn(count, 5, generator=generator), torch.randn(count, 7, *grid, generator=generator))


def output_of(task: Task, size: tuple[int, int], pooling: str = "cls", hidden: int = 0) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        width = FeatureDims(5, 7)
        head = task.new_head(width, HeadDesign(pooling=pooling, hidden=hidden)).eval()
    with torch.no_grad():
        return cast(Tensor, head(features((size[0] // 8, size[1] // 8)), size))


def target_of(name: str, size: tuple[int, int]) -> Tensor:
    return task_of(name).example_targets(COUNT, size, torch.Generator().manual_seed(1))


def numpy_rows(rows: dict[str, Tensor]) -> dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.float64]]"]:
    return {name: column.numpy() for name, column in rows.items()}


@pytest.mark.parametrize("hidden", [0, 6])
@pytest.mark.parametrize("pooling", ["cls", "cls+patch"])
@pytest.mark.parametrize("size", [(16, 16), (32, 48)])
@pytest.mark.parametrize("name", NAMES)
def test_output_has_the_size_of_the_image(name: str, size: tuple[int, int], pooling: str, hidden: int) -> None:
    task = task_of(name)
    output = output_of(task, size, pooling, hidden)
    assert len(output) == COUNT
    assert output.ndim == task.output_axes
    expected = (size[0] // 8, size[1] // 8) if task.patch_outputs else size
    assert not task.label_axes or output.shape[-2:] == expected
    assert torch.isfinite(output).all()


@pytest.mark.parametrize("hidden", [0, 6])
@pytest.mark.parametrize("name", TRAINED)
def test_training_loss_is_one_number_an_image_and_reaches_every_weight(name: str, hidden: int) -> None:
    task = task_of(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = task.new_head(FeatureDims(5, 7), HeadDesign(hidden=hidden)).eval()
    loss = task.training_loss(head(features((2, 2)), (16, 16)), target_of(name, (16, 16)))
    assert loss.shape == (COUNT,)
    assert torch.isfinite(loss).all()
    loss.sum().backward()
    for parameter in head.parameters():
        assert parameter.grad is not None
        assert (parameter.grad != 0).any()


@pytest.mark.parametrize("name", MADE)
def test_a_head_that_is_not_trained_has_no_weights_and_is_made_of_features_and_labels(name: str) -> None:
    task, target = task_of(name), target_of(name, (16, 16))
    head = task.made_head([(features((2, 2)), target)] * 2, HeadDesign())
    assert not list(head.parameters())
    rows = task.of_model(head).rows(head(features((2, 2)), (16, 16)), target)
    assert torch.isfinite(task.score(rows)).all()


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


@pytest.mark.parametrize("name", TRAINED)
def test_training_improves_the_score_as_the_direction_of_the_metric_says(name: str) -> None:
    task = task_of(name)
    head = task.head(FeatureDims(5, 7), HeadDesign())
    # One label per patch, which a head on patches can learn.
    target = task.fit_labels(target_of(name, (2, 2)), (16, 16))
    optimiser = torch.optim.Adam(head.parameters(), 0.05)
    scores = []
    for _ in range(150):
        output = head(features((2, 2)), (16, 16))
        scores.append(float(task.score(task.rows(output.detach(), target)).nanmean()))
        optimiser.zero_grad()
        task.training_loss(output, target).mean().backward()
        optimiser.step()
    assert (scores[-1] > scores[0]) == task.higher_is_better
    assert scores[-1] != scores[0]


@pytest.mark.parametrize("name", NAMES)
def test_labels_pass_their_own_check_and_others_are_refused(name: str) -> None:
    task = task_of(name)
    target = target_of(name, (4, 6))
    assert torch.equal(task.check_targets(target, COUNT), target)
    assert torch.equal(task.check_label(target[0].numpy()), target[0])
    with pytest.raises(UserError, match=f"shape .*{task.name} takes"):
        task.check_targets(target[None], COUNT)
    with pytest.raises(ValueError, match=f"expected {task.label_axes} axes"):
        task.check_label(target.numpy())


@pytest.mark.parametrize("name", NAMES)
def test_a_label_mirrored_twice_is_itself(name: str) -> None:
    task, target = task_of(name), target_of(name, (4, 6))[0]
    assert torch.equal(task.flip(task.flip(target)), target)


@pytest.mark.parametrize("name", NAMES)
def test_chance_is_no_better_than_a_perfect_score_and_comes_from_labels_alone(name: str) -> None:
    task, target = task_of(name), target_of(name, (16, 16))
    first, second = (numpy_rows(task.rows(output_of(task, (16, 16)) * factor, target)) for factor in (1, -1))
    level = task.chance(first)
    assert level is not None
    assert np.isfinite(level)
    assert level == task.chance(second)


@pytest.mark.parametrize("name", NAMES)
def test_answers_and_labels_are_shown_as_the_display_says(name: str) -> None:
    task = task_of(name)
    answer, label = task.shown_output(output_of(task, (16, 16))[0]), target_of(name, (16, 16))[0]
    shapes = {"class map": (16, 16), "scalar map": (16, 16), "colours": (16, 16, 3)}
    for shown in (answer, label):
        picture = task.picture(shown)
        if task.display.kind == "classes":
            assert isinstance(picture, list)
            assert all(one in SPACE.classes and 0 <= share <= 1 for one, share in picture)
        else:
            assert isinstance(picture, np.ndarray)
            assert picture.shape == shapes[task.display.kind]
            assert picture.dtype == (np.uint16 if task.display.kind == "scalar map" else np.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_is_made_of_columns_that_rows_have(name: str) -> None:
    task = task_of(name)
    rows = task.rows(output_of(task, (16, 16)), target_of(name, (16, 16)))
    assert set(task.statistics[task.metric].columns) <= set(rows)
    assert next(iter(task.statistics)) == task.metric


def test_miou_is_of_summed_counts_and_no_mean_over_images() -> None:
    task = task_of("segmentation")
    rows = numpy_rows(task.rows(output_of(task, (16, 16)), target_of("segmentation", (16, 16))))
    sums = [rows[c].sum(0).astype(float) for c in ("intersection", "predicted", "labelled")]
    assert task.estimates(rows)["mIoU"].value == float(mean_iou(sums[0], sums[1], sums[2]))


def judged(probes: SceneProbes, attack: AttackSpec, target_task: str = "", precision: str = "fp32") -> list[Judged]:
    data = load_dataset("scenes", root=Path("nowhere"), limit=12, size=(16, 16))
    models = {task: model for task, (model, _) in probes.fitted.items()}
    device = torch.device("cpu")
    work = EvaluationSpec(probes.encoder, models, data, (attack,), target_task, list(models), 5, precision, device)
    return [batch for (batch,) in evaluate(work, keep=range(len(data)))]


def rows_of(parts: list[Judged], rounded: bool = False) -> dict[str, Tensor]:
    rows = [p.rounded if rounded else p.rows for p in parts]
    return {f"{t} {c}": torch.cat([r[t][c] for r in rows]) for t in rows[0] for c in rows[0][t]}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "target_task"), [case for case in CASES if not case[1] or case in FOR_A_TASK])
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
