"""Copy detection: edited copies of a dataset, a threshold as scikit-learn's ROC curve has it, and attacks both ways."""

from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_curve
from torch import Tensor

import robustprobe as rp
from robustprobe.core.types import FeatureDims, Features, HeadDesign, LabelSpace, LossContext
from robustprobe.datasets import Dataset, label_report, load_dataset
from robustprobe.encoders import Encoder, EncoderCard
from robustprobe.losses.retrieval import chosen_item
from robustprobe.metrics.rankings import micro_average_precision
from robustprobe.tasks import load_task
from robustprobe.tasks.copies import ThresholdHead, threshold_of
from tests.folders import write_classes

pytestmark = pytest.mark.unit

SPACE = LabelSpace(classes=("no copy", "a", "b", "c"))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loaded(split: str, limit: int | None = None) -> Dataset:
    return load_dataset("copies:scenes", root="nowhere", split=split, limit=limit, size=(32, 32))


def gallery_of(limit: int) -> list[str]:
    """The images of scenes in the gallery of a limited train."""
    return [n.removeprefix("gallery/") for n in loaded("train", limit=limit).kept_ids if n.startswith("gallery/")]


# The threshold.


@pytest.mark.parametrize("strangers", [60, 100, 199, 350])
def test_the_share_found_is_the_best_of_a_roc_curve_up_to_one_in_a_hundred_false_positives(strangers: int) -> None:
    nearest, own = drawn(strangers), drawn(80, seed=1) + 1.5
    threshold = threshold_of(nearest.clamp(max=1))
    scores = torch.cat([own, nearest.clamp(max=1)])
    false, found, _ = roc_curve([1] * 80 + [0] * strangers, scores, drop_intermediate=False)
    assert float((own > threshold).double().mean()) == pytest.approx(found[false <= 0.01].max())


def test_a_gallery_sets_its_threshold_on_images_that_are_no_copies() -> None:
    cls, labels = drawn(300, 6), torch.arange(300).clamp(max=100).remainder(100)
    head = load_task("copies", LabelSpace(classes=tuple(map(str, range(101))))).made_head(
        [
            (Features(part, part[:, :, None, None]), some)
            for part, some in zip(cls.split(70), labels.split(70), strict=True)
        ],
        HeadDesign(),
    )
    assert isinstance(head, ThresholdHead)
    assert head.gallery.labels.tolist() == [label for label in labels.tolist() if label]
    items, strangers = cls[labels > 0], cls[labels == 0]
    nearest = torch.cosine_similarity(strangers[:, None], items[None], dim=2).amax(1)
    assert int((nearest > head.threshold + 1e-6).sum()) == int(0.01 * len(strangers)) == 2
    assert int((nearest > head.threshold - 1e-6).sum()) == 3


def test_without_such_images_the_items_stand_in_for_them() -> None:
    cls, task = torch.eye(3)[:, :2] + 0.1, load_task("copies", SPACE)
    head = task.made_head([(Features(cls, cls[:, :, None, None]), torch.tensor([1, 2, 3]))], HeadDesign())
    between = torch.cosine_similarity(cls[:, None], cls[None], dim=2) - 2 * torch.eye(3)
    assert isinstance(head, ThresholdHead)
    assert float(head.threshold) == pytest.approx(float(between.max()))
    with pytest.raises(rp.UserError, match="none of 2 train images is an original"):
        task.made_head([(Features(cls[:2], cls[:2, :, None, None]), torch.zeros(2, dtype=torch.int64))], HeadDesign())


def test_one_embedding_for_all_images_finds_nothing() -> None:
    same = torch.ones(4, 5)
    task = load_task("copies", SPACE)
    head = task.made_head([(Features(same, same[:, :, None, None]), torch.tensor([0, 1, 2, 0]))], HeadDesign())
    bound = task.of_model(head)
    rows = bound.rows(head(Features(same, same[:, :, None, None]), (8, 8)), torch.tensor([1, 2, 0, 3]))
    assert rows["found"].nan_to_num(-1).tolist() == [0, 0, -1, -1]
    assert rows["wrong_match"].tolist() == [0] * 4


# Scores and losses.


def test_rows_say_what_is_found_and_what_is_matched_wrongly() -> None:
    task = load_task("copies", SPACE)
    output = torch.tensor([[0.1, -0.2, 0.5, -1], [-1, 0.3, -0.1, -0.1], [-0.1, -0.2, -0.3, -1], [-1, -1, 0.1, -1]])
    rows = task.rows(output, torch.tensor([2, 3, 0, 0]))
    assert rows["found"].nan_to_num(-1).tolist() == [1, 0, -1, -1]
    assert rows["wrong_match"].tolist() == [1, 1, 0, 1]
    # After item 2 comes item 3, after item 3 item 0; of no copy it is item 0.
    assert rows["chosen_match"].tolist() == [0, 0, 0, 0]
    assert task.rows(-output, torch.tensor([2, 3, 0, 0]))["chosen_match"].tolist() == [1, 1, 1, 1]
    estimates = task.estimates({name: column.numpy() for name, column in rows.items()})
    assert estimates["copies found"].value == 0.5
    assert estimates["wrong matches"].value == 0.75


def micro_ap(output: Tensor, labels: Tensor) -> float:
    """What the task reports of similarities with items of the labels 1 to N."""
    task = load_task("copies", LabelSpace(classes=tuple(map(str, range(output.shape[1] + 1)))))
    gallery = torch.arange(1, output.shape[1] + 1)
    head = task.made_head([(Features(torch.eye(len(gallery)), torch.ones(1, 1, 1, 1)), gallery)], HeadDesign())
    rows = task.of_model(head).rows(output, labels)
    return task.estimates({name: column.numpy() for name, column in rows.items()})["micro AP"].value


@pytest.mark.parametrize("decimals", [1, 6], ids=["ties", "none"])
@pytest.mark.parametrize("items", [8, 40])
def test_micro_ap_is_that_of_scikit_learn_over_the_candidates_of_all_queries(items: int, decimals: int) -> None:
    labels = torch.arange(60) % (items + 1)
    output = drawn(60, items, seed=items).tanh()
    output[torch.arange(60), (labels - 1).clamp(min=0)] += 0.4
    output = output.round(decimals=decimals)
    near, which = output.topk(min(10, items), dim=1)
    right = (which + 1 == labels[:, None]) & (labels > 0)[:, None]
    # A copy whose original is no candidate is never found, as in the challenge's program.
    wanted = average_precision_score(right.flatten(), near.flatten()) * right.sum() / (labels > 0).sum()
    assert 0.1 < micro_ap(output, labels) == pytest.approx(float(wanted))


def test_micro_ap_of_drawn_queries_is_that_of_queries_which_are_there_so_often() -> None:
    similarity, right = drawn(9, 4).round(decimals=1).numpy(), np.eye(9, 4)
    counted = np.where(right.any(1), 0.0, np.nan)
    drawn_often = np.array([[2, 0, 1, 0, 3, 1, 0, 2, 0], [0, 0, 0, 0, 1, 1, 1, 1, 1], [1] * 9], dtype=float)
    found = micro_average_precision(similarity, right, counted, drawn_often)
    repeated = np.repeat(np.arange(9), drawn_often[0].astype(int))
    assert found[0] == pytest.approx(average_precision_score(right[repeated].ravel(), similarity[repeated].ravel()))
    assert np.isnan(found[1])
    assert found[2] == pytest.approx(average_precision_score(right.ravel(), similarity.ravel()))


def test_micro_ap_of_one_embedding_for_all_is_the_share_of_right_candidates() -> None:
    assert micro_ap(torch.zeros(12, 4), torch.tensor([1, 2, 3, 4] + [0] * 8)) == pytest.approx(4 / 48)
    assert np.isnan(micro_ap(torch.zeros(5, 4), torch.zeros(5, dtype=torch.int64)))


@pytest.mark.parametrize("pooling", ["cls", "cls+patch", "gem"])
def test_the_embedding_of_the_pooling_is_compared(pooling: str) -> None:
    cls, patches = drawn(120, 6), drawn(120, 5, 2, 2, seed=1)
    labels = torch.arange(120).clamp(max=60).remainder(60)
    task = load_task("copies", LabelSpace(classes=tuple(map(str, range(61)))))
    head = task.made_head([(Features(cls, patches), labels)], HeadDesign(pooling=pooling))
    raised = patches.double().clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)
    means = torch.nn.functional.normalize(patches.double().mean((2, 3)), dim=1)
    joined = torch.cat([torch.nn.functional.normalize(cls.double(), dim=1), means], 1)
    shown = {"cls": cls.double(), "cls+patch": joined, "gem": raised}[pooling]
    wanted = torch.cosine_similarity(shown[:9, None], shown[None, labels > 0], dim=2)
    torch.testing.assert_close(head(Features(cls[:9], patches[:9]), (8, 8)).double(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_chosen_item_is_another_one_and_follows_what_is_relevant(seed: int) -> None:
    relevant = drawn(40, 7, seed=seed) > 0.4
    relevant[0], relevant[:, 6] = False, relevant[:, 6] & ~relevant[:, :6].all(1)
    for row, item in zip(relevant.tolist(), chosen_item(relevant).tolist(), strict=True):
        first = row.index(True) if True in row else 0
        assert item == next(place % 7 for place in range(first, first + 7) if not row[place % 7])


def test_the_loss_is_that_of_a_wrong_decision() -> None:
    relevant = torch.tensor([[False, True, False], [False, False, False]])
    similarity = torch.tensor([[0.1, 0.7, 0.9], [0.3, -0.2, 0.6]], requires_grad=True)
    aim, task = LossContext(relevant, SPACE), load_task("copies", SPACE)
    found = task.attack_losses.losses["similarity"](similarity, aim)
    torch.testing.assert_close(found, torch.tensor([-0.7, 0.6]))
    found.sum().backward()
    assert similarity.grad is not None
    assert similarity.grad.tolist() == [[0, -1, 0], [0, 0, 1]]
    assert task.attack_losses.losses["chosen"](similarity, aim).tolist() == pytest.approx([0.9, 0.3])


# The data.


def test_copies_are_of_images_in_the_gallery_and_the_rest_is_not() -> None:
    train, test, val = (loaded(split) for split in ("train", "test", "val"))
    classes = train.labels["copies"].classes
    gallery = {name.removeprefix("gallery/") for name in train.kept_ids if name.startswith("gallery/")}
    originals = {}
    for split, data in {"test": test, "val": val}.items():
        names = [name.split("/") for name in data.kept_ids]
        originals[split] = {name for role, _, name in names if role == "copy"}
        assert originals[split] <= gallery
        assert all(name.startswith(f"{split}-") for role, _, name in names if role == "distractor")
        assert len(originals[split]) == sum(role == "distractor" for role, _, _ in names) == 500
    assert not originals["test"] & originals["val"]
    for position in (0, 1, 2, len(test) - 1):
        identity, _, targets = test[position]
        wanted = identity.split("/")[2] if identity.startswith("copy") else "no copy"
        assert classes[int(targets["copies"])] == wanted
    assert {name.split("/")[0] for name in train.kept_ids} == {"gallery", "background"}


@pytest.mark.parametrize("limit", [10, 60])
def test_a_limit_keeps_as_many_copies_as_others_and_a_gallery_twice_as_large_their_originals(limit: int) -> None:
    kept = [name.split("/") for name in loaded("test", limit=limit).kept_ids]
    copied = [name for role, _, name in kept if role == "copy"]
    assert len(copied) == limit // 2
    assert set(copied) <= set(gallery_of(2 * limit))
    assert len(gallery_of(2 * limit)) == limit


def test_edits_follow_the_id_and_are_those_it_names() -> None:
    first, again = loaded("test"), loaded("test")
    place = next(i for i, name in enumerate(first.kept_ids) if name.startswith("copy/flip/"))
    copy = first[place]
    label = int(copy.targets["copies"])
    original = load_dataset("scenes", root="nowhere", split="train", size=(32, 32))[label - 1]
    assert torch.equal(copy.image, original.image.flip(2))
    for position in range(0, 40, 7):
        assert torch.equal(first[position].image, again[position].image)


def test_a_folder_is_copied_too_and_its_content_is_in_the_digest(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "own", {"train": 12, "test": 4}, ("cup", "hat"))
    name = f"copies:{folder}"
    data = load_dataset(name, root="nowhere", size=(16, 16))
    before = data.digest()
    read = next(folder.glob("test/cup/*"))
    read.write_bytes(next(folder.glob("test/hat/*")).read_bytes())
    assert load_dataset(name, root="nowhere", size=(16, 16)).digest() != before
    with pytest.raises(rp.UserError, match="copies reads a folder of yours; name it"):
        load_dataset("copies")
    with pytest.raises(rp.UserError, match="expected"):
        load_dataset(f"copies:{tmp_path / 'none'}")


# Runs and attacks.


@final
class Thumbnail(Encoder):
    """The image at 4 x 4 pixels, without its mean colour."""

    def __init__(self) -> None:
        dims = FeatureDims(48, 3)
        super().__init__(EncoderCard(name="thumbnail", patch_size=4, input_size=(16, 16), widths=dims))

    def features(self, images: Tensor) -> Features:
        small = torch.nn.functional.avg_pool2d(images, 4)
        small = small - small.mean((2, 3), keepdim=True)
        return Features(small.flatten(1), small)


def test_attacks_hide_copies_and_make_two_images_one() -> None:
    options: dict[str, Any] = {
        "eps": "64/255",
        "steps": 10,
        "size": 16,
        "limit": 24,
        "sanity_images": 0,
        "head": {"train_limit": 300},
    }
    results = rp.evaluate(Thumbnail(), "copies:scenes", ["clean", "pgd", "pgd:chosen"], **options)
    found = {f"{r.attack.name}:{r.attack.objective}": r for r in results.records}
    clean, hidden, chosen = (found[name].metrics for name in ("clean:", "pgd:", "pgd:chosen"))
    assert clean["copies found"].value > 0.2
    assert hidden["copies found"].value < clean["copies found"].value / 2
    assert chosen["chosen matches"].value > max(0.5, clean["chosen matches"].value, hidden["chosen matches"].value)
    assert found["clean:"].chance == pytest.approx(0.01 / len(gallery_of(300)))


@pytest.mark.parametrize(
    ("train_limit", "there", "lost"), [(20, 5, 25), (40, 10, 20), (80, 20, 10), (120, 30, 0), (200, 30, 0)]
)
def test_labels_say_how_many_copies_have_their_original_among_the_train_images_taken(
    train_limit: int, there: int, lost: int
) -> None:
    train, test = loaded("train", limit=train_limit), loaded("test", limit=60)
    gallery = {int(train.known_label(index)) for index in train.indices} - {0}
    assert sum(test.known_label(index) in gallery for index in test.indices) == there
    assert all(int(test[place].targets["copies"]) == test.known_label(test.indices[place]) for place in range(8))
    report = label_report(train, test, ["copies"])
    told = report.facts["copies"]
    assert f"train ({train_limit} images) {train_limit // 2} of {train_limit} with an original" in told
    assert f"test (60 images) {there} of 60 have an original in train" in told
    assert (f"{lost} lost theirs to the train limit and have no score" in told) == bool(lost)
    warned = [text for task, text in report.doubts if "of 30 copies have no original" in text]
    assert bool(warned) == (lost > 15)
