"""SEA as its authors publish it: the class-balanced loss, and the choice among attacks by the mIoU of the set."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

import robustprobe as rp
from robustprobe.attacks.sea import LOSSES
from robustprobe.core.types import LabelSpace, LossContext
from robustprobe.metrics.dense import lowest_mean_iou, mean_iou
from robustprobe.results.store import Store
from robustprobe.tasks import load_task

SPACE = LabelSpace(classes=("a", "b", "c"))
TASK = load_task("segmentation", SPACE)


def example(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 5, 6, generator=generator), TASK.example_targets(4, (5, 6), generator)


def loss(name: str, output: Tensor, context: LossContext) -> Tensor:
    return TASK.attack_losses.losses[name](output, context)


@pytest.mark.parametrize("seed", range(3))
def test_balanced_loss_is_that_of_the_authors(seed: int) -> None:
    """torch's weighted cross-entropy, on correct pixels, mean over the pixels that are not ignored."""
    output, target = example(seed)
    space = TASK.space_of_set([target])
    weights = 1 / torch.tensor(space.class_shares)
    weights = weights / weights.sum()
    each = F.cross_entropy(output, target, weight=weights, reduction="none", ignore_index=255)
    right = (output.argmax(1) == target) & (target != 255)
    wanted = (each * right).flatten(1).sum(1) / (target != 255).flatten(1).sum(1)
    assert torch.allclose(loss("mask-ce-bal", output, LossContext(target, space)), wanted)


def test_balanced_loss_of_classes_that_count_alike_is_mask_ce() -> None:
    output, target = example(0)
    context = LossContext(target, SPACE)
    assert torch.allclose(3 * loss("mask-ce-bal", output, context), loss("mask-ce", output, context))


def test_shares_are_those_of_counted_pixels_and_of_unseen_classes_the_smallest() -> None:
    target = torch.tensor([[[0, 0, 0], [1, 255, 255]]])
    assert TASK.space_of_set([target]).class_shares == pytest.approx((3 / 5, 1 / 5, 1 / 5))
    assert TASK.space_of_set([torch.full((1, 2, 2), 255)]) == SPACE


def counts(seed: int, attacks: int, images: int, classes: int = 4) -> NDArray[np.float64]:
    """Pixel counts (3, K, N, C) of random predictions for random long-tailed labels."""
    generator = np.random.default_rng(seed)
    share = 1 / np.arange(1, classes + 1) ** 2
    label = generator.choice(classes, (images, 60), p=share / share.sum())
    answer = np.where(
        generator.random((attacks, images, 60)) < 0.5, label, generator.integers(0, classes, (attacks, images, 60))
    )
    one_hot = np.eye(classes)
    labelled = np.broadcast_to(one_hot[label].sum(1), (attacks, images, classes))
    return np.stack([(one_hot[answer] * one_hot[label]).sum(2), one_hot[answer].sum(2), labelled])


def score(of: NDArray[np.float64], choice: NDArray[np.int64]) -> float:
    return float(mean_iou(*of[:, choice, np.arange(of.shape[2])].sum(1)))


@pytest.mark.parametrize("seed", range(12))
def test_greedy_choice_is_at_most_every_attack_and_near_the_best_of_all(seed: int) -> None:
    of = counts(seed, attacks=3, images=5)
    choice = lowest_mean_iou(*of)
    found = score(of, choice)
    assert found <= min(score(of, np.full(5, k)) for k in range(3))
    wrong = (of[2] - of[0]).sum(-1)
    best = min(score(of, np.array(each)) for each in itertools.product(range(3), repeat=5))
    assert best <= found <= best + 0.02
    assert found <= score(of, wrong.argmax(0)) + 0.01
    for image, attack in itertools.product(range(5), range(3)):
        other = choice.copy()
        other[image] = attack
        assert score(of, other) >= found - 1e-8


def test_choice_by_the_set_beats_the_choice_by_wrong_pixels_on_rare_classes() -> None:
    gains = []
    for seed in range(5):
        of = counts(seed, attacks=3, images=60, classes=8)
        gains.append(score(of, (of[2] - of[0]).sum(-1).argmax(0)) - score(of, lowest_mean_iou(*of)))
    assert min(gains) > 0


def test_choice_among_images_without_labels_is_the_first() -> None:
    assert lowest_mean_iou(*np.zeros((3, 2, 4, 3))).tolist() == [0, 0, 0, 0]


def test_sea_has_the_authors_losses() -> None:
    assert LOSSES == ("mask-ce-bal", "mask-ce", "js")
    assert {m.loss for m in TASK.attack_losses.ensemble} >= set(LOSSES)


def test_a_run_counts_what_is_worst_for_the_set_whatever_the_batches(tmp_path: Path) -> None:
    found = {}
    for size in (2, 4):
        table = rp.evaluate(
            "bundled:scenes",
            "scenes",
            "sea",
            tasks="segmentation",
            eps="1/255",
            steps=2,
            limit=4,
            batch_size=size,
            sanity_images=0,
            examples=2 if size == 2 else 0,
            head={"train_limit": 24, "epochs": 2},
            out=tmp_path / str(size),
        )
        store = Store(tmp_path / str(size))
        (record,) = store.records()
        rows = store.rows(record.fingerprint)
        sums = [np.stack(rows[c].to_pylist()).sum(0).astype(float) for c in ("intersection", "predicted", "labelled")]
        assert record.headline.value == pytest.approx(float(mean_iou(*sums)))
        assert record.largest_perturbation <= 1 / 255 + 1e-6
        found[size] = rows.to_pydict()
        assert set(found[size]["search"]) <= set(range(6))
        assert len(table) == 1
    assert found[2] == found[4]
