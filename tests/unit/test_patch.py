"""Adversarial patches: what may change, what is judged, and that the search does more than noise in the same place."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

import robustprobe as rp
from robustprobe import UserError
from robustprobe.attacks import Attacked, Victim, load_attack
from robustprobe.core.attack_spec import AttackChoice, AttackSpec
from robustprobe.core.patches import box_mask, boxes_at, cut_out, patch_size, put_in, touched
from robustprobe.core.spec import Suite
from robustprobe.core.types import LabelSpace
from robustprobe.evaluation.evaluate import EvaluationSpec, evaluate
from robustprobe.evaluation.sanity_checks import patch_check
from robustprobe.evaluation.victims import task_victim
from robustprobe.metrics.statistics import CLEAN_THERE, CONTROL_THERE, PATCH
from robustprobe.tasks import Model, load_task
from tests.conftest import SceneProbes

pytestmark = pytest.mark.unit
TASKS = ("classification", "segmentation", "depth", "normals")
IDS = ["a", "b", "c", "d"]


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def spec(**options: Any) -> AttackSpec:
    return AttackSpec.model_validate({"name": "patch", "area": 0.1, "steps": 3, **options})


def victim(probes: SceneProbes, task: str, count: int = 4) -> tuple[Model, Victim]:
    model = probes.fitted[task][0]
    labels = model.task.example_targets(count, (16, 16), torch.Generator().manual_seed(1))
    return model, task_victim(model, model.task, labels, (16, 16), precision="fp32")


def run(seen: Victim, ids: list[str] | None = None, shown: Tensor | None = None, **options: Any) -> Attacked:
    names = IDS if ids is None else ids
    return load_attack(spec(**options)).run(seen, images(len(names)) if shown is None else shown, names)


@pytest.mark.parametrize(
    ("share", "size", "wanted"),
    [(0.05, (32, 32), (7, 7)), (0.05, (16, 16), (3, 4)), (0.5, (4, 40), (4, 20)), (0.5, (40, 4), (20, 4))],
)
def test_a_patch_is_nearly_square_and_covers_no_more_than_its_share(
    share: float, size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    found = patch_size(share, size)
    assert found == wanted
    assert 0.9 * share * size[0] * size[1] < found[0] * found[1] + 3
    assert found[0] * found[1] <= share * size[0] * size[1]


def test_patches_reach_every_edge_and_stay_inside() -> None:
    places = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.25]])
    boxes = boxes_at(places, (3, 5), (11, 9))
    assert boxes.tolist() == [[0, 0, 3, 5], [8, 4, 3, 5], [4, 1, 3, 5]]
    mask = box_mask(boxes, (11, 9))
    assert mask.flatten(1).sum(1).tolist() == [15, 15, 15]
    whole = torch.rand(3, 3, 11, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(put_in(whole, boxes, cut_out(whole, boxes)), whole)
    black = put_in(whole, boxes, torch.zeros(3, 3, 3, 5))
    assert torch.equal((black != whole).any(1), mask)


def test_a_label_that_a_patch_touches_does_not_count_at_any_resolution() -> None:
    mask = box_mask(torch.tensor([[2, 4, 2, 3]]), (8, 8))
    assert torch.equal(touched(mask, (16, 16)), mask.repeat_interleave(2, 1).repeat_interleave(2, 2))
    small = touched(mask, (4, 4))
    # Columns 4 to 6 lie in the third and, by half, in the fourth.
    assert small.nonzero()[:, 1:].tolist() == [[1, 2], [1, 3]]
    space = LabelSpace(classes=("a", "b"), ignore_index=9)
    target = torch.ones(1, 8, 8, dtype=torch.int64)
    assert torch.equal(load_task("segmentation", space).without(target, mask) == 9, mask)
    normals = torch.ones(1, 3, 8, 8)
    assert torch.equal((load_task("normals", space).without(normals, mask) == 0).all(1), mask)
    labels = torch.tensor([1])
    assert torch.equal(load_task("classification", space).without(labels, mask), labels)


@pytest.mark.parametrize("options", [{}, {"position": "worst"}, {"position": "1,0"}, {"position_samples": 3}])
@pytest.mark.parametrize("task", TASKS)
def test_nothing_changes_outside_of_the_patch(scene_probes: SceneProbes, task: str, options: dict[str, Any]) -> None:
    _, seen = victim(scene_probes, task)
    found = run(seen, **options)
    assert found.boxes is not None
    assert found.control is not None
    mask = box_mask(found.boxes, (16, 16))
    assert (mask.flatten(1).double().mean(1) <= 0.1).all()
    for made in (found.images, found.control):
        outside = ~mask[:, None].expand_as(made)
        assert torch.equal(made[outside], images()[outside])
        assert 0 <= made.min() <= made.max() <= 1
        assert (made != images()).any(1).flatten(1).sum(1).min() >= 20
    # Values of the patch are not bounded by how far they are from the image.
    assert (found.images - images()).abs().max() > 0.5


def test_the_place_follows_the_id_not_batch_seed_or_model(scene_probes: SceneProbes) -> None:
    _, seen = victim(scene_probes, "classification")
    found = run(seen)
    assert found.boxes is not None
    assert len({tuple(box) for box in found.boxes.tolist()}) == 4
    other = run(victim(scene_probes, "depth")[1], seed=5)
    assert torch.equal(found.boxes, other.boxes)  # type: ignore[arg-type]
    part = seen._replace(targets=seen.targets[[2, 0]])  # type: ignore[index]
    again = run(part, ["c", "a"], images()[[2, 0]])
    assert torch.equal(again.images, found.images[[2, 0]])
    assert torch.equal(again.control, found.control[[2, 0]])  # type: ignore[arg-type,index]


def test_a_place_that_is_given_is_taken(scene_probes: SceneProbes) -> None:
    _, seen = victim(scene_probes, "classification")
    assert run(seen, position="1,0").boxes[:, :2].tolist() == [[11, 0]] * 4  # type: ignore[index]
    assert run(seen, position="centre").boxes[:, :2].tolist() == [[6, 6]] * 4  # type: ignore[index]


def test_the_worst_place_is_no_better_than_the_first_at_its_own_pixels(scene_probes: SceneProbes) -> None:
    model, seen = victim(scene_probes, "depth")

    def gain(found: Attacked) -> Tensor:
        assert found.boxes is not None
        kept = model.task.without(seen.targets, box_mask(found.boxes, (16, 16)))  # type: ignore[arg-type]
        with torch.no_grad():
            after, before = (model.task.score(model.task.rows(model(x), kept)) for x in (found.images, images()))
        return after - before

    one, worst = run(seen), run(seen, position="worst")
    assert (gain(worst) >= gain(one) - 1e-6).all()
    assert not torch.equal(one.boxes, worst.boxes)  # type: ignore[arg-type]


def test_a_search_over_places_does_not_know_the_one_that_counts(scene_probes: SceneProbes) -> None:
    _, seen = victim(scene_probes, "classification")
    shown: list[Tensor] = []
    inner = seen.function

    def spy(x: Tensor) -> Any:
        shown.append(x.detach().clone())
        return inner(x)

    spied = seen._replace(function=spy)
    found = run(spied, ["a"], images(1), position_samples=2, steps=4)
    assert found.boxes is not None
    changed = [tuple((x != images(1)).any(1)[0].nonzero()[0].tolist()) for x in shown if not torch.equal(x, images(1))]
    assert len(set(changed)) > 4
    attack = load_attack(spec(position_samples=2, steps=4))
    assert (found.forwards, found.backwards) == attack.passes()


@pytest.mark.parametrize("options", [{}, {"position": "worst"}, {"restarts": 2}, {"eot_samples": 2}])
def test_passes_are_those_that_are_counted(scene_probes: SceneProbes, options: dict[str, Any]) -> None:
    _, seen = victim(scene_probes, "depth")
    found = run(seen, ["a"], images(1), **options)
    assert (found.forwards, found.backwards) == load_attack(spec(**options)).total_passes()


@pytest.mark.parametrize("task", ["classification", "depth"])
def test_the_last_iterate_is_the_last_one_with_early_exit_too(scene_probes: SceneProbes, task: str) -> None:
    _, seen = victim(scene_probes, task)
    last = run(seen, iterate="last", steps=6)
    assert torch.equal(run(seen, iterate="last", steps=6, early_exit=True).images, last.images)
    assert task != "classification" or not torch.equal(run(seen, steps=6, early_exit=True).images, last.images)


def test_clean_control_and_attack_are_judged_on_the_same_pixels(scene_probes: SceneProbes) -> None:
    models = {task: scene_probes.fitted[task][0] for task in TASKS}
    data = rp.load_dataset("scenes", split="test", limit=4, size=(16, 16))
    made = EvaluationSpec(
        encoder=scene_probes.encoder,
        models=models,
        dataset=data,
        attacks=(spec(steps=8, area=0.2),),
        target_task="depth",
        judges=list(TASKS),
        batch_size=2,
        precision="fp32",
        device=torch.device("cpu"),
    )
    pieces = [piece for (piece,) in evaluate(made, keep=range(4))]
    kept = [one for piece in pieces for one in piece.kept]
    for task in TASKS:
        rows = {n: torch.cat([piece.rows[task][n] for piece in pieces]) for n in pieces[0].rows[task]}
        boxes = rows[PATCH]
        for place, one in enumerate(kept):
            mask = box_mask(boxes[place : place + 1], (16, 16))
            model = models[task]
            label = model.task.without(one.targets[task][None], mask)
            for ahead, image in (("", one.adversarial), (CLEAN_THERE, one.image)):
                wanted = model.task.rows(model(image[None]), label)
                for name, value in wanted.items():
                    np.testing.assert_allclose(rows[f"{ahead}{name}"][place], value[0], rtol=1e-4, atol=1e-5)
        if task == "segmentation":
            counted = {ahead: rows[f"{ahead}labelled"] for ahead in ("", CLEAN_THERE, CONTROL_THERE)}
            assert torch.equal(counted[""], counted[CLEAN_THERE])
            assert torch.equal(counted[""], counted[CONTROL_THERE])
            pixels = int((data[0].targets[task] != 255).sum())
            assert int(counted[""][0].sum()) < pixels
    (check,) = patch_check(models["depth"].task, {n: np.asarray(c) for n, c in _rows(pieces, "depth").items()})
    assert check.passed
    assert check.value > 0


def _rows(pieces: list[Any], task: str) -> dict[str, Tensor]:
    return {name: torch.cat([piece.rows[task][name] for piece in pieces]) for name in pieces[0].rows[task]}


def test_a_patch_that_does_no_more_than_noise_is_marked() -> None:
    task = load_task("classification", LabelSpace(classes=("a", "b")))
    right, wrong = np.ones(8, dtype=bool), np.zeros(8, dtype=bool)

    def rows(attacked: Any, control: Any) -> dict[str, Any]:
        return {"correct": attacked, f"{CLEAN_THERE}correct": right, f"{CONTROL_THERE}correct": control}

    (same,) = patch_check(task, rows(right, right))
    assert not same.passed
    assert "nothing that a random patch does not do" in same.meaning
    assert patch_check(task, rows(wrong, right))[0].passed
    assert patch_check(task, rows(wrong, wrong))[0].passed
    assert patch_check(task, {"correct": right}) == []


@pytest.mark.filterwarnings("ignore:segmentation labels")
def test_from_python_the_score_leaves_pixels_under_the_patch_out(scene_probes: SceneProbes) -> None:
    model, _ = victim(scene_probes, "segmentation")
    labels = model(images()).argmax(1).detach()
    # Only pixels under the patch have a label.
    mask = box_mask(boxes_at(torch.tensor([[0.0, 0.0]]), patch_size(0.25, (16, 16)), (16, 16)), (16, 16))
    hidden = torch.where(mask, labels, 255)
    found = rp.attack(model, images(), hidden, attack="patch", area="25%", position="0,0", steps=1)
    assert found.score.isnan().all()
    beside = rp.attack(model, images(), hidden, attack="patch", area="25%", position="1,1", steps=1)
    assert not beside.score.isnan().any()
    assert "area 25%" in found.facts()["largest change"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"area": 0.6}, "at most 50%"),
        ({"area": "0%"}, "above 0"),
        ({"area": "half"}, "not a share of the image's area"),
        ({"position": "left"}, "write random, worst, centre, or two shares"),
        ({"position": "0.5,2"}, "write random, worst, centre, or two shares"),
        ({"position": "centre", "position_samples": 4}, "Give one of the two"),
        ({"eps": 0.1}, "patches have no eps"),
        ({"severity": 3}, "severity is for corruptions; give area"),
    ],
)
def test_mistakes_are_one_clear_error(scene_probes: SceneProbes, options: dict[str, Any], said: str) -> None:
    model, _ = victim(scene_probes, "classification")
    with pytest.raises(UserError, match=said):
        rp.attack(model, images(), torch.zeros(4).long(), attack="patch", **options)


def test_an_area_is_for_patches_and_an_eps_for_other_attacks() -> None:
    suite = Suite.model_validate({"encoders": "bundled:scenes", "datasets": "scenes", "area": ["10%", 0.05]})
    specs = suite.attack_specs(AttackChoice(name="patch"), 50, own_unit="area", tuning={"position"})
    assert [(s.eps, s.norm, s.steps, s.sized_label) for s in specs] == [
        (0.05, "area", 50, "patch area 5%"),
        (0.1, "area", 50, "patch area 10%"),
    ]
    with pytest.raises(UserError, match="has an area, not an eps; write area: 5%"):
        suite.attack_specs(AttackChoice(name="patch", eps=(0.1,)), 50, own_unit="area")
    with pytest.raises(UserError, match="has an eps, not an area; write eps: 8/255"):
        suite.attack_specs(AttackChoice(name="pgd", area=(0.1,)), 20)
    with pytest.raises(ValidationError, match="an eps or an area, not both"):
        AttackSpec.model_validate({"name": "patch", "area": 0.1, "eps": 0.1})
    with pytest.raises(UserError, match="attack pgd has an eps; it got an area"):
        load_attack(AttackSpec.model_validate({"name": "pgd", "area": 0.1}))
