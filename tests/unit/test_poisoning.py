"""Gallery poisoning: margins counted by hand, what counts as returned, and attacks that more searches return."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import robustprobe as rp
from robustprobe.core.types import FeatureDims, Features, HeadDesign, LabelSpace, LossContext
from robustprobe.tasks import load_task
from robustprobe.tasks.poisoning import PoisonedHead, Poisoning
from tests.folders import write_classes
from tests.unit.test_copies import Thumbnail
from tests.unit.test_retrieval import COLOURS, ColourEncoder, ConstantEncoder

pytestmark = pytest.mark.unit

SPACE = LabelSpace(classes=("a", "b", "c"))


def features(count: int, seed: int = 0) -> Features:
    cls = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return Features(cls, cls[:, :, None, None])


def made(count: int) -> tuple[Poisoning, PoisonedHead]:
    task, train = load_task("poisoning", SPACE), features(count)
    parts = [(Features(c, p), torch.arange(len(c)) % 3) for c, p in zip(*(f.split(50) for f in train), strict=True)]
    head = task.made_head(parts, HeadDesign())
    bound = task.of_model(head)
    assert isinstance(head, PoisonedHead)
    assert isinstance(bound, Poisoning)
    return bound, head


@pytest.mark.parametrize(("train", "first"), [(360, 10), (90, 3), (12, 1)])
def test_a_search_returns_an_item_that_is_among_its_first_ones(train: int, first: int) -> None:
    task, head = made(train)
    count = train // 3
    searches = head.searches.items
    assert len(searches) == train - count
    assert int(head.known) == count
    # The items are the train images that are no search.
    cls = F.normalize(features(train).cls, dim=1)
    items = cls[(cls @ searches.T).amax(1) < 1 - 1e-6]
    assert len(items) == count
    planted = features(20, seed=2)
    output = head(planted, (8, 8))
    shown = F.normalize(planted.cls, dim=1)
    for row, item in zip(output, shown, strict=True):
        rank = ((searches @ items.T) > (searches @ item)[:, None]).sum(1)
        assert torch.equal(row >= 0, rank < first)
    rows = task.rows(output, torch.zeros(20, dtype=torch.int64))
    torch.testing.assert_close(rows["returned_known"], (output[:, :count] >= 0).double().mean(1))
    torch.testing.assert_close(rows["returned"], (output[:, count:] >= 0).double().mean(1))


def test_the_attack_sees_the_known_searches_alone() -> None:
    task, head = made(90)
    output = head(features(5, seed=2), (8, 8)).detach().requires_grad_()
    for name, loss in task.attack_losses.losses.items():
        (gradient,) = torch.autograd.grad(loss(output, LossContext(torch.zeros(5), SPACE)).sum(), output)
        assert (gradient[:, :30] > 0).all(), name
        assert not gradient[:, 30:].any(), name
    unseen_changed = torch.cat([output[:, :30], output[:, 30:] + 1], 1)
    aim = LossContext(torch.zeros(5), SPACE)
    assert torch.equal(task.attack_losses.damage(output, aim), task.attack_losses.damage(unseen_changed, aim))


def test_the_head_comes_back_from_its_state() -> None:
    _, head = made(90)
    other = load_task("poisoning", SPACE).new_head(FeatureDims(6, 6), HeadDesign())
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(features(3), (8, 8)), head(features(3), (8, 8)))


def test_too_few_train_images_are_an_error() -> None:
    with pytest.raises(rp.UserError, match="2 train images make no gallery with searches; take more"):
        load_task("poisoning", SPACE).made_head([(features(2), torch.zeros(2))], HeadDesign())


def evaluated(encoder: Any, dataset: str, attacks: Any, **options: Any) -> Any:
    return rp.evaluate(encoder, dataset, attacks, tasks="poisoning", eps="32/255", steps=5, **options)


def test_attacks_plant_images_that_more_searches_return() -> None:
    settings = {"size": 16, "limit": 12, "sanity_images": 0, "head": {"train_limit": 300}}
    found = evaluated(Thumbnail(), "scenes", ["clean", "noise", "pgd", "ensemble"], **settings)
    values = dict(zip(found["attack"], found["value"], strict=True))
    assert values["pgd"] > max(values["clean"], values["noise"]) + 0.05
    assert values["ensemble"] >= values["pgd"] - 0.02
    record = next(r for r in found.records if r.attack.name == "pgd")
    assert record.chance == 1
    rows = found.rows()
    pgd = rows[rows["attack"] == "pgd"]
    assert float(pgd["score"].mean()) == pytest.approx(values["pgd"])


def test_an_encoder_that_tells_nothing_apart_has_nothing_left_to_lose() -> None:
    record = evaluated(ConstantEncoder(), COLOURS, "clean").records[0]
    assert record.headline.value == record.chance == 1


def test_a_search_of_ones_own_is_poisoned_too(tmp_path: Path) -> None:
    folder = write_classes(tmp_path, {"gallery": 8, "queries": 2}, ("cup", "hat", "key"))
    found = evaluated(ColourEncoder(), f"retrievalfolder:{folder}", "clean", size=16)
    assert list(found["task"]) == ["poisoning"]
    assert np.isfinite(found["value"][0])


def test_a_picture_names_the_searches_that_return_an_image_most_surely() -> None:
    task, head = made(90)
    output: Tensor = head(features(1, seed=3), (8, 8))[0]
    shown = task.picture(task.shown_output(output))
    labels = [SPACE.classes[int(head.searches.labels[place])] for place in output.topk(5).indices]
    assert [name for name, _ in shown] == labels
    assert task.picture(torch.tensor(2)) == [["c", 1.0]]
