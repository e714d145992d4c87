"""Correspondence: exact places in a second view, nearest patches as scikit-learn finds them, attacks on one view."""

from typing import final

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

import robustprobe as rp
from robustprobe.core.types import FeatureDims, Features, HeadDesign, LabelSpace, LossContext
from robustprobe.datasets import load_dataset
from robustprobe.datasets._rendering import render, two_views
from robustprobe.encoders import Encoder, EncoderCard
from robustprobe.losses import correspondence as losses
from robustprobe.tasks import load_task

pytestmark = pytest.mark.unit


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def task_with(views: Tensor, numbers: list[int]) -> rp.Task:
    """The task on a model with these other views."""
    task = load_task("correspondence", LabelSpace())
    labels = torch.tensor(numbers)[:, None, None, None].expand(-1, 3, 4, 4).float()
    return task.of_model(task.made_head([(Features(views.mean((2, 3)), views), labels)], HeadDesign()))


# Geometry.


@pytest.mark.parametrize("identity", ["test-1", "test-3", "val-2"])
def test_a_seen_point_has_the_same_colour_in_both_views(identity: str) -> None:
    views = two_views(identity, 96)
    assert np.array_equal(views.first, render(identity, 96).image)
    x, y = ((place * 96).astype(int).clip(0, 95) for place in views.places)
    seen, still = views.seen > 0, np.abs(views.second.astype(int) - views.first)
    gap = np.abs(views.second[y, x].astype(int) - views.first)[seen]
    assert 0.4 < seen.mean() < 1
    assert np.median(gap) < 8
    assert gap.mean() < still[seen].mean() / 2
    assert (views.places[:, ~seen] == 0).all()


def test_places_do_not_depend_on_the_size_of_the_picture() -> None:
    small, large = two_views("test-5", 32), two_views("test-5", 96)
    # The centre of a pixel of the small picture is that of the middle one of three times three.
    assert np.array_equal(small.seen, large.seen[1::3, 1::3])
    np.testing.assert_allclose(small.places, large.places[:, 1::3, 1::3], atol=1e-6)


def test_second_views_are_those_of_the_images_that_limits_keep() -> None:
    asked = load_dataset("views", root="nowhere", split="test", limit=20, size=(16, 16))
    views = load_dataset("views", root="nowhere", split="train", limit=40, size=(16, 16))
    assert set(asked.kept_ids) <= {name.removeprefix("second/") for name in views.kept_ids}
    number = {s.id.removeprefix("second/"): float(s.targets["correspondence"][2, 0, 0]) for s in views}
    plain = load_dataset("scenes", root="nowhere", split="test", limit=20, size=(16, 16))
    for sample, same in zip(asked, plain, strict=True):
        assert set(sample.targets["correspondence"][2].unique().tolist()) <= {0, number[sample.id]}
        assert sample.id == same.id
        assert torch.equal(sample.image, same.image)


# Scores.


def test_matches_are_the_nearest_neighbours_and_right_ones_are_near_their_place() -> None:
    patches, views = drawn(3, 8, 4, 5), drawn(4, 8, 6, 7, seed=1)
    task, target = task_with(views, [5, 2, 9, 4]), drawn(3, 3, 4, 5, seed=2).sigmoid()
    target[:, 2] = torch.tensor([9.0, 4.0, 7.0])[:, None, None] * (target[:, 2] > 0.4)
    rows = task.rows(torch.nn.functional.normalize(patches, dim=1), target)
    for row, place in enumerate((2, 3)):
        other = views[place].flatten(1).T.numpy()
        found = (
            NearestNeighbors(n_neighbors=1, metric="cosine").fit(other).kneighbors(patches[row].flatten(1).T.numpy())
        )
        at = found[1][:, 0]
        places = np.stack([(at % 7 + 0.5) / 7, (at // 7 + 0.5) / 6], 1)
        gap = np.linalg.norm(target[row, :2].flatten(1).T.numpy() - places, axis=1)
        seen = target[row, 2].flatten().numpy() > 0
        assert float(rows["seen"][row]) == seen.sum()
        assert float(rows["right_10"][row]) == pytest.approx((gap[seen] <= 0.1).sum())
        assert float(rows["right_20"][row]) == pytest.approx((gap[seen] <= 0.2).sum())
    # View 7 is not there: the image counts nowhere.
    assert float(rows["seen"][2]) == 0
    assert np.isnan(float(task.score(rows)[2]))
    columns = {name: column.numpy() for name, column in rows.items()}
    assert task.estimates(columns)["PCK@0.1"].value == pytest.approx(columns["right_10"].sum() / columns["seen"].sum())


def test_chance_is_the_mean_score_of_random_features() -> None:
    target = drawn(6, 3, 4, 4).sigmoid()
    target[:, 2] = torch.arange(1, 7)[:, None, None]
    found = []
    for seed in range(60):
        task = task_with(drawn(6, 16, 4, 4, seed=seed + 1), list(range(1, 7)))
        rows = {k: v.numpy() for k, v in task.rows(drawn(6, 16, 4, 4, seed=seed + 1000), target).items()}
        found.append(task.estimates(rows)["PCK@0.1"].value)
    assert task.chance(rows) == pytest.approx(np.mean(found), abs=0.02)


def test_an_image_matched_with_itself_is_right_everywhere_and_a_constant_one_at_one_place() -> None:
    same = drawn(1, 8, 5, 5)
    places = losses.centres(5, 5).T.reshape(1, 2, 5, 5)
    target = torch.cat([places, torch.full((1, 1, 5, 5), 3.0)], 1)
    task = task_with(same, [3])
    assert float(task.score(task.rows(same, target))) == 1
    assert float(task.score(task.rows(torch.ones(1, 8, 5, 5), target))) <= 0.2


@pytest.mark.parametrize("name", ["soft-neighbour", "mean-similarity"])
def test_losses_grow_as_matches_get_worse_and_unseen_patches_have_no_gradient(name: str) -> None:
    view = drawn(1, 8, 3, 3)
    places = losses.centres(3, 3).T.reshape(1, 2, 3, 3)
    target = torch.cat([places, torch.ones(1, 1, 3, 3)], 1)
    target[0, 2, 0] = 0
    task = task_with(view, [1])
    loss = task.attack_losses.losses[name]
    values = [
        float(loss(view + noise * drawn(1, 8, 3, 3, seed=1), LossContext(target, task.space))) for noise in (0, 1, 9)
    ]
    assert values == sorted(values)
    assert values[0] < values[2]
    output = drawn(1, 8, 3, 3, seed=2).requires_grad_(True)
    loss(output, LossContext(target, task.space)).sum().backward()
    assert output.grad is not None
    assert (output.grad[0, :, 0] == 0).all()
    assert (output.grad[0, :, 1:] != 0).any(0).all()


@pytest.mark.parametrize("wrong", [1.5, -0.1, float("nan")])
def test_places_outside_the_view_are_refused(wrong: float) -> None:
    label = np.full((3, 4, 4), 0.5, np.float32)
    label[0, 1, 1] = wrong
    with pytest.raises(ValueError, match="expected 0 to 1"):
        load_task("correspondence", LabelSpace()).check_label(label)


# A run.


@final
class Colours(Encoder):
    """The mean colour of patches of 4 x 4 pixels, and of those around."""

    def __init__(self) -> None:
        super().__init__(EncoderCard(name="colours", patch_size=4, input_size=(32, 32), widths=FeatureDims(6, 6)))

    def features(self, images: Tensor) -> Features:
        near = torch.nn.functional.avg_pool2d(images, 4) - 0.5
        wide = torch.nn.functional.avg_pool2d(near, 3, 1, 1, count_include_pad=False)
        both = torch.cat([near, wide], 1)
        return Features(both.mean((2, 3)), both)


def test_an_attack_on_one_view_takes_the_matches_away() -> None:
    found = rp.evaluate(
        Colours(), "views", ["clean", "pgd"], eps="32/255", steps=5, limit=10, sanity_images=0, head={"train_limit": 30}
    )
    clean, attacked = found["value"]
    assert list(found["metric"]) == ["PCK@0.1"] * 2
    (record,) = [r for r in found.records if r.attack.name == "clean"]
    assert record.chance is not None
    assert clean > 2 * record.chance
    assert attacked < clean / 2
    assert record.metrics["PCK@0.1 at best"].value > clean
