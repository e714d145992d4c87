"""Retrieval: a gallery of train images, mAP as scikit-learn has it, chance, and attacks that lower it."""

from itertools import combinations
from pathlib import Path
from typing import ClassVar, final

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import robustprobe as rp
from robustprobe.core.head_spec import HeadSpec
from robustprobe.core.spec import DatasetSpec
from robustprobe.core.types import FeatureDims, Features, HeadDesign, LabelSpace
from robustprobe.datasets import Dataset, RawSample, load_dataset
from robustprobe.datasets._check import check
from robustprobe.encoders import Encoder, EncoderCard
from robustprobe.losses import retrieval as losses
from robustprobe.probing import HeadPlan, plan_heads
from robustprobe.results.store import Store
from robustprobe.tasks import Task, load_task
from robustprobe.tasks._ranking import GalleryHead, random_precision, ranked
from tests.folders import write_classes

pytestmark = pytest.mark.unit

CLASSES = ("a", "b", "c")
CPU = torch.device("cpu")
SPEC = HeadSpec(train_limit=40)


def precision_of(order: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> float:
    """Average precision of relevance in ranked order, written out."""
    hits = [order[: rank + 1].mean() for rank in range(len(order)) if order[rank]]
    return float(np.mean(hits))


def drawn(count: int, items: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    relevant = torch.rand(count, items, generator=generator) < 0.3
    relevant[:, 0] = True
    return torch.randn(count, items, generator=generator), relevant


def test_average_precision_and_recall_are_those_written_out() -> None:
    similarity, relevant = drawn(12, 20)
    found = ranked(similarity, relevant)
    order = relevant.gather(1, similarity.argsort(1, descending=True)).numpy()
    assert found.average_precision.tolist() == pytest.approx([precision_of(row) for row in order])
    assert found.hit_1.tolist() == [float(row[0]) for row in order]
    assert found.hit_5.tolist() == [float(row[:5].any()) for row in order]


def test_of_equal_similarities_the_relevant_items_come_last() -> None:
    similarity, relevant = torch.tensor([[0.5, 0.5, 0.5, 0.1]]), torch.tensor([[True, False, False, True]])
    found = ranked(similarity, relevant)
    assert float(found.average_precision) == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert float(found.hit_1) == 0
    assert float(found.hit_5) == 1


def test_a_query_without_a_relevant_item_counts_nowhere() -> None:
    similarity, relevant = drawn(3, 8)
    relevant[1] = False
    task = load_task("retrieval", LabelSpace(classes=CLASSES))
    columns = {name: column.numpy() for name, column in ranked(similarity, relevant)._asdict().items()}
    others = {name: np.delete(column, 1) for name, column in columns.items()}
    assert np.isnan(columns["average_precision"][1])
    for name, estimate in task.estimates(columns).items():
        assert estimate.value == task.estimates(others)[name].value
    assert task.chance(columns) == task.chance(others)
    nothing = {name: column[1:2] for name, column in columns.items()}
    assert task.chance(nothing) is None
    assert np.isnan(task.estimates(nothing)["recall@1"].value)


@pytest.mark.parametrize(("right", "count"), [(1, 6), (3, 7), (5, 5)])
def test_chance_is_the_mean_over_all_rankings(right: int, count: int) -> None:
    every = [precision_of(np.isin(np.arange(count), places)) for places in combinations(range(count), right)]
    assert float(random_precision(torch.tensor([right]), count)) == pytest.approx(np.mean(every))


@pytest.mark.parametrize("name", ["soft_neighbour", "mean_similarity", "fast_ap"])
def test_losses_grow_as_relevant_items_fall_behind_and_are_finite_where_there_are_none(name: str) -> None:
    loss = getattr(losses, name)
    relevant = torch.tensor([[True, True, False, False, False]]).expand(3, -1).clone()
    similarity = torch.tensor([[0.9, 0.8, 0.2, 0.1, 0.0], [0.3, 0.8, 0.5, 0.1, 0.0], [0.1, 0.0, 0.9, 0.8, 0.5]])
    first, second, third = loss(similarity, relevant)
    assert first < second < third
    given = similarity[[1, 1, 2]].requires_grad_(True)
    relevant[1], relevant[2] = False, True
    found = loss(given, relevant)
    found.sum().backward()
    assert found[1:].tolist() == [0, 0]
    assert given.grad is not None
    assert torch.isfinite(given.grad).all()
    assert (given.grad[0] != 0).any()
    assert (given.grad[1:] == 0).all()


def test_fast_ap_is_close_to_average_precision() -> None:
    similarity, relevant = drawn(30, 400)
    similarity = similarity + relevant
    found, exact = 1 - losses.fast_ap(similarity, relevant), ranked(similarity, relevant).average_precision
    assert (found - exact).abs().max() < 0.05


def test_losses_of_a_query_do_not_depend_on_the_batch() -> None:
    similarity, relevant = drawn(5, 300)
    for loss in (losses.soft_neighbour, losses.mean_similarity, losses.fast_ap):
        alone = torch.cat([loss(s[None], r[None]) for s, r in zip(similarity, relevant, strict=True)])
        assert torch.equal(loss(similarity, relevant), alone)


@pytest.mark.parametrize("pooling", ["cls", "cls+patch"])
def test_similarities_are_cosines_of_the_embedding(pooling: str) -> None:
    task = load_task("retrieval", LabelSpace(classes=CLASSES))
    generator = torch.Generator().manual_seed(0)
    features = Features(torch.randn(6, 5, generator=generator), torch.randn(6, 7, 2, 3, generator=generator))
    head = task.made_head([(features, torch.arange(6) % 3)], HeadDesign(pooling=pooling))
    cosine = torch.cosine_similarity(features.cls[:, None], features.cls[None], dim=2)
    if pooling == "cls+patch":
        mean = features.patches.mean((2, 3))
        cosine = (cosine + torch.cosine_similarity(mean[:, None], mean[None], dim=2)) / 2
    torch.testing.assert_close(head(features, (8, 8)), cosine)


def test_gem_is_the_cube_root_of_the_mean_cube_of_positive_values() -> None:
    task, patches = load_task("retrieval", LabelSpace(classes=CLASSES)), drawn(6, 35)[0].view(6, 7, 5, 1)
    features = Features(torch.zeros(6, 5), patches)
    head = task.made_head([(features, torch.arange(6) % 3)], HeadDesign(pooling="gem"))
    found = np.cbrt((np.maximum(patches.numpy(), 1e-6) ** 3).mean((2, 3)))
    cosine = found @ found.T / np.linalg.norm(found, axis=1) / np.linalg.norm(found, axis=1)[:, None]
    np.testing.assert_allclose(head(features, (8, 8)).numpy(), cosine, rtol=1e-5)
    assert task.head(FeatureDims(5, 7), HeadDesign(pooling="gem"))(features, (8, 8)).shape == (6, 3)


def test_gem_names_other_heads_and_is_for_tasks_that_search_alone(tiny_encoder: Encoder) -> None:
    def plan(**options: str) -> HeadPlan:
        spec = HeadSpec.model_validate({"train_limit": 40, **options})
        tasks = ["classification", "retrieval"]
        return plan_heads(tiny_encoder, DatasetSpec(name=COLOURS), spec, root=Path("nowhere"), tasks=tasks)

    usual, gem = plan(), plan(pooling="gem")
    assert usual.keys["retrieval"] != gem.keys["retrieval"]
    assert not usual.notes
    (note,) = gem.notes
    assert note == "pooling gem is for tasks that search; heads of classification read what the recipe says"
    fitted = gem.fit(CPU)["retrieval"][1]
    assert fitted.design.pooling == "gem"
    assert isinstance(fitted.head, GalleryHead)
    images = torch.stack([sample.image for sample in gem.data.train])
    patches = tiny_encoder(images).patches.clamp(min=1e-6)
    wanted = torch.nn.functional.normalize(patches.pow(3).mean((2, 3)).pow(1 / 3), dim=1)
    torch.testing.assert_close(fitted.head.items, wanted)


# Targeted attacks.


@pytest.mark.parametrize("seed", range(3))
def test_the_chosen_item_is_the_next_irrelevant_one_and_junk_is_never_chosen(seed: int) -> None:
    codes = torch.randint(0, 3, (30, 9), generator=torch.Generator().manual_seed(seed))
    codes[:, 4] = 0
    found = losses.chosen_item(codes == 1, codes == 0).tolist()
    for row, item in zip(codes.tolist(), found, strict=True):
        first = row.index(1) if 1 in row else 0
        assert item == next(place % 9 for place in range(first, first + 9) if row[place % 9] == 0)


def test_the_rank_and_the_log_probability_of_the_chosen_item_are_those_written_out() -> None:
    similarity, relevant = drawn(12, 20)
    similarity[0] = 0.5
    item = losses.chosen_item(relevant)
    ranks, values = losses.chosen_rank(similarity, relevant).tolist(), losses.chosen(similarity, relevant)
    for row in range(12):
        own = float(similarity[row, item[row]])
        assert ranks[row] == sum(value >= own for value in similarity[row].tolist())
        wanted = torch.log_softmax(similarity[row] / 0.07, 0)[item[row]]
        torch.testing.assert_close(values[row], wanted, rtol=1e-4, atol=1e-4)
    rows = load_task("retrieval", LabelSpace(classes=tuple("abcdefghijklmnopqrst"))).rows(similarity, torch.arange(12))
    assert rows["chosen_1"].sum() <= rows["chosen_5"].sum()


def test_a_targeted_attack_brings_the_chosen_item_to_the_top() -> None:
    generator = torch.Generator().manual_seed(0)
    images, items = torch.rand(6, 3, 8, 8, generator=generator), torch.randn(9, 192, generator=generator)

    def similarities(x: Tensor) -> Tensor:
        return torch.nn.functional.normalize(x.flatten(1) - 0.5, dim=1) @ torch.nn.functional.normalize(items, dim=1).T

    labels = torch.tensor([0, 2, 8, 4, 5, 3])
    ranks = {
        attack: losses.chosen_rank(
            similarities(
                rp.attack(similarities, images, labels, task="retrieval", attack=attack, eps="32/255").adversarial
            ),
            labels[:, None] == torch.arange(9),
        )
        for attack in ("clean", "pgd", "pgd:chosen")
    }
    assert (ranks["pgd:chosen"] == 1).all()
    assert (ranks["clean"] > 1).sum() > 3
    assert (ranks["pgd"] > 1).any()


# Heads, runs and attacks.


@final
class ConstantEncoder(Encoder):
    """One embedding for every image."""

    def __init__(self) -> None:
        dims = FeatureDims(4, 4)
        super().__init__(EncoderCard(name="constant", patch_size=8, input_size=(16, 16), widths=dims))

    def features(self, images: Tensor) -> Features:
        nothing = 0 * images.mean((1, 2, 3))
        return Features(1 + nothing[:, None].expand(-1, 4), 1 + nothing[:, None, None, None].expand(-1, 4, 2, 2))


@final
class ColourEncoder(Encoder):
    """The mean colour, and nothing else."""

    def __init__(self) -> None:
        dims = FeatureDims(3, 3)
        super().__init__(EncoderCard(name="colour", patch_size=8, input_size=(16, 16), widths=dims))

    def features(self, images: Tensor) -> Features:
        mean = images.mean((2, 3)) - 0.5
        return Features(mean, mean[:, :, None, None].expand(-1, -1, 2, 2))


@final
class Colours(Dataset):
    """Noisy squares of three colours; the class is the colour."""

    labels: ClassVar = {"classification": LabelSpace(classes=CLASSES)}
    native_size: ClassVar = (16, 16)
    layout: ClassVar = "nothing"

    def ids(self) -> list[str]:
        return [f"{self.split}-{index}" for index in range({"train": 40, "val": 9, "test": 12}[self.split])]

    def read(self, index: int) -> RawSample:
        generator = np.random.default_rng([len(self.split), index])
        pixels = generator.integers(0, 120, (16, 16, 3))
        pixels[..., index % 3] += 20
        return RawSample(Image.fromarray(pixels.astype(np.uint8)), {"classification": index % 3})


COLOURS = f"{__file__}:Colours"


def planned(encoder: Encoder, name: str = COLOURS) -> HeadPlan:
    return plan_heads(encoder, DatasetSpec(name=name), SPEC, root=Path("nowhere"), tasks=["retrieval"])


def test_a_dataset_with_classes_offers_the_task_where_it_is_asked_for_and_only_there() -> None:
    plain, asked = (load_dataset(COLOURS, tasks=tasks) for tasks in ((), ("retrieval",)))
    assert list(plain.spaces) == ["classification"]
    assert set(plain[0].targets) == {"classification"}
    assert asked.spaces["retrieval"] == asked.labels["classification"]
    assert asked[4].targets["retrieval"] == asked[4].targets["classification"]
    assert asked.digest() == plain.digest()
    with pytest.raises(rp.UserError, match="has labels for classification, not for depth"):
        rp.evaluate("bundled:scenes", COLOURS, "clean", tasks="depth")


def test_the_gallery_is_the_train_images_and_comes_back_from_the_cache() -> None:
    plan = planned(ColourEncoder())
    model, fitted = plan.fit(CPU)["retrieval"]
    train = plan.data.train
    images = torch.stack([sample.image for sample in train])
    items = torch.nn.functional.normalize(images.mean((2, 3)) - 0.5, dim=1)
    assert isinstance(model.head, GalleryHead)
    torch.testing.assert_close(model.head.items, items)
    assert model.head.labels.tolist() == [int(sample.targets["retrieval"]) for sample in train]
    again, stored = plan.fit(CPU)["retrieval"]
    assert torch.equal(again(images), model(images))
    assert torch.equal(again.task.fit_labels(torch.tensor([1]), (1, 1)), model.head.labels[None] == 1)
    assert stored.held_out_score == fitted.held_out_score > 0.9


def test_an_encoder_that_sees_the_class_comes_first_and_a_constant_one_last(tmp_path: Path) -> None:
    for encoder in (ColourEncoder(), ConstantEncoder()):
        rp.evaluate(encoder, COLOURS, "clean", tasks="retrieval", head={"train_limit": 40}, out=tmp_path)
    found = {record.encoder: record for record in Store(tmp_path).records()}
    assert found["colour"].headline.value > 0.9
    chance = found["constant"].chance
    assert chance is not None
    assert chance == found["colour"].chance
    assert 1 / 3 - 0.02 < found["constant"].headline.value <= chance < 1 / 3 + 0.1
    assert found["constant"].metrics["recall@5"].value == 0


def test_rows_name_queries_and_attacks_lower_map(tmp_path: Path) -> None:
    attacks = ["clean", "pgd", "embed", "ensemble"]
    found = rp.evaluate(
        ColourEncoder(), COLOURS, attacks, tasks="retrieval", eps="32/255", steps=4, head={"train_limit": 40}
    )
    values = dict(zip(found["attack"], found["value"], strict=True))
    assert values["pgd"] < values["clean"] - 0.1
    assert values["ensemble"] <= values["pgd"]
    assert values["embed"] <= values["clean"]
    rows = found.rows()
    clean = rows[rows["attack"] == "clean"]
    assert list(clean["id"]) == load_dataset(COLOURS).kept_ids
    assert float(clean["score"].mean()) == pytest.approx(values["clean"])


def test_a_model_shows_the_classes_of_the_first_items() -> None:
    model = planned(ColourEncoder()).fit(CPU)["retrieval"][0]
    sample = load_dataset(COLOURS, tasks=["retrieval"])[1]
    shown = model.task.shown_output(model(sample.image[None])[0])
    plain: Task = load_task("retrieval", LabelSpace(classes=CLASSES))
    assert [name for name, _ in plain.picture(shown)] == ["b"] * 5
    assert plain.picture(sample.targets["retrieval"]) == [["b", 1.0]]
    label = model.task.fit_labels(sample.targets["retrieval"][None], (16, 16))[0]
    assert model.task.picture(label) == [["b", 1.0]]


def test_a_model_of_ones_own_answers_similarities_with_one_item_of_each_label() -> None:
    generator = torch.Generator().manual_seed(0)
    images, items = torch.rand(4, 3, 8, 8, generator=generator), torch.randn(3, 6, generator=generator)

    def similarities(x: Tensor) -> Tensor:
        return (x.mean((2, 3)) - 0.5) @ items

    targets = similarities(images).argmax(1)
    result = rp.attack(similarities, images, targets, task="retrieval", attack="pgd", eps="96/255", steps=4)
    assert result.metric == "mAP"
    assert result.score.max() <= 1
    assert result.score.mean() < 1


def test_a_folder_of_ones_own_has_its_whole_gallery_and_no_val(tmp_path: Path) -> None:
    name = f"retrievalfolder:{write_classes(tmp_path / 'own', {'gallery': 3, 'queries': 2}, ('cup', 'hat', 'key'))}"
    gallery, queries = (load_dataset(name, split=split, size=(16, 16)) for split in ("train", "test"))
    assert (len(gallery), len(queries)) == (9, 6)
    assert queries.kept_ids[0] == "queries/cup/cup_queries_0.JPEG"
    with pytest.raises(rp.UserError, match="retrievalfolder has no split val; choose train or test"):
        load_dataset(name, split="val")
    fitted = planned(ColourEncoder(), name).fit(CPU)["retrieval"][1]
    assert isinstance(fitted.head, GalleryHead)
    assert len(fitted.head.items) == 9
    assert np.isnan(fitted.held_out_score)
    found = rp.evaluate(ColourEncoder(), name, "clean", out=tmp_path / "results")
    assert list(found["task"]) == ["retrieval"]
    items, asked = (torch.stack([s.image.mean((1, 2)) - 0.5 for s in part]) for part in (gallery, queries))
    cosine = torch.cosine_similarity(asked[:, None], items[None], dim=2)
    places = torch.tensor([int(sample.targets["retrieval"]) for sample in gallery])
    wanted = torch.tensor([int(sample.targets["retrieval"]) for sample in queries])
    order = (places == wanted[:, None]).gather(1, cosine.argsort(1, descending=True)).numpy()
    assert found["value"][0] == pytest.approx(np.mean([precision_of(row) for row in order]), abs=1e-6)
    assert not [part.wrong for part in check(name, tmp_path).splits if part.wrong]


def test_queries_for_items_that_the_gallery_lacks_are_one_clear_error(tmp_path: Path) -> None:
    folder = write_classes(tmp_path, {"gallery": 2, "queries": 1}, ("cup", "hat"))
    write_classes(tmp_path, {"queries": 1}, ("key",))
    with pytest.raises(rp.UserError, match=r"queries/key is not a class of .*gallery"):
        load_dataset(f"retrievalfolder:{folder}")
