"""Recipes: what they ask for, how they show images, and that heads learn under every one of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import robustprobe as rp
from robustprobe import Dataset, Sample, UserError, load_dataset, probing
from robustprobe.core.head_spec import HeadSpec
from robustprobe.core.types import FeatureDims, HeadDesign, LabelSpace
from robustprobe.core.views import Padded, Resized, View, Windows
from robustprobe.encoders import Encoder, EncoderCard
from robustprobe.encoders._timm import create
from robustprobe.encoders._timm import wrap as timm_encoder
from robustprobe.encoders.file import Architecture, build
from robustprobe.probing import FeatureSet, FitJob, cache, fit_probes, mean_scores, train_data, train_heads
from robustprobe.probing import fit as fitting
from robustprobe.probing.augment import Augmentation
from robustprobe.probing.features import Streamed
from robustprobe.probing.head_plan import HeadPlan
from robustprobe.probing.probes import wide
from robustprobe.probing.recipes import multiple, preprocessing, recipe_for, recipe_of
from robustprobe.tasks import Augment, TaskRecipe, load_task, task_kind
from robustprobe.tasks.segmentation import Segmentation
from tests.conftest import whole
from tests.folders import write_segfolder

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")
TASKS = ("classification", "segmentation", "depth")


@pytest.fixture(scope="module")
def deep_encoder() -> Encoder:
    """Four blocks, for heads that read four."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(Architecture(img_size=16, patch_size=8, embed_dim=8, depth=4, num_heads=2), "file:deep").freeze()


@pytest.mark.parametrize("name", ["fast", "standard", "paper"])
@pytest.mark.parametrize("task", TASKS)
def test_every_task_of_the_paper_has_every_recipe(name: str, task: str) -> None:
    assert name in task_kind(task).recipes


def test_a_recipe_that_a_task_lacks_is_named() -> None:
    class Odd(Segmentation):  # type: ignore[misc]
        recipes: ClassVar = {"fast": TaskRecipe()}

    with pytest.raises(UserError, match=r"no recipe 'paper'; it has fast"):
        recipe_of(HeadSpec(recipe="paper"), Odd)


def test_paper_has_the_hyper_parameters_of_the_released_code() -> None:
    paper = {task: task_kind(task).recipes["paper"] for task in TASKS}
    assert (paper["classification"].optimiser, paper["classification"].learning_rates) == ("adam", (0.5,))
    assert [paper[t].epochs for t in TASKS] == [5, 50, 20]
    assert [paper[t].batch_size for t in TASKS] == [128, 16, 128]
    assert [paper[t].weight_decay for t in TASKS] == [0, 1e-4, 0.01]
    assert paper["depth"].designs == (HeadDesign(1, "cls+patch", False, 4),)


def test_standard_sweeps_rates_layers_and_pooling_together() -> None:
    recipe = task_kind("classification").recipes["standard"]
    assert len(recipe.learning_rates) == 13
    assert {(d.layers, d.pooling) for d in recipe.designs} == {
        (1, "cls"),
        (1, "cls+patch"),
        (4, "cls"),
        (4, "cls+patch"),
    }
    assert recipe.layers == 4


def test_changes_of_a_recipe_replace_its_own_numbers() -> None:
    changed = recipe_of(
        HeadSpec(recipe="standard", epochs=2, learning_rates=(0.3,), pooling="cls"), task_kind("classification")
    )
    assert (changed.epochs, changed.learning_rates) == (2, (0.3,))
    assert {d.pooling for d in changed.designs} == {"cls"}
    assert recipe_of(HeadSpec(recipe="standard", epochs=2), task_kind("segmentation")).steps is None
    assert recipe_of(HeadSpec(recipe="standard"), task_kind("segmentation")).steps == 40_000
    assert recipe_of(HeadSpec(pooling="cls+patch"), task_kind("classification")).designs == (
        HeadDesign(pooling="cls+patch"),
    )
    assert recipe_of(HeadSpec(layers=4), task_kind("segmentation")).designs == (HeadDesign(4, "patch"),)
    assert len(recipe_of(HeadSpec(recipe="standard", layers=1), task_kind("classification")).designs) == 2


@pytest.mark.parametrize(
    ("recipe", "task", "side", "patch", "native", "size", "view"),
    [
        ("paper", "classification", 224, 16, (32, 32), (224, 224), Resized(size=(224, 224))),
        ("paper", "classification", 518, 14, (32, 32), (518, 518), Resized(size=(518, 518))),
        ("paper", "segmentation", 224, 16, (1024, 2048), 224, Windows(window=224, stride=100)),
        ("paper", "segmentation", 518, 14, (1024, 2048), 518, Windows(window=518, stride=341)),
        ("paper", "depth", 518, 14, (480, 640), (480, 640), Padded(patch=14)),
        ("standard", "classification", 518, 14, (32, 32), (224, 224), Resized(size=(224, 224))),
        ("standard", "segmentation", 224, 16, (512, 683), 512, Windows(window=512, stride=341)),
        ("standard", "segmentation", 518, 14, (512, 683), 518, Windows(window=518, stride=345)),
        ("standard", "segmentation", 64, 8, (360, 480), 128, Windows(window=128, stride=85)),
        ("standard", "depth", 64, 8, (480, 640), (96, 128), Resized(size=(96, 128))),
        ("fast", "segmentation", 64, 8, (360, 480), (96, 128), Resized(size=(96, 128))),
    ],
)
def test_images_are_shown_as_the_recipe_says(
    recipe: str, task: str, side: int, patch: int, native: Any, size: Any, view: View
) -> None:
    found = preprocessing(recipe, [task], (side, side), patch, native, (96, 128))
    assert found.size == size
    assert found.views == {task: view}


def test_models_of_several_tasks_see_the_same_images() -> None:
    found = preprocessing("paper", list(TASKS), (224, 224), 16, (480, 640), (96, 128))
    assert found.views == dict.fromkeys(TASKS, Resized(size=(96, 128)))


def test_multiples_are_near_and_never_zero() -> None:
    assert [multiple(512, 14), multiple(224, 14), multiple(3, 16)] == [518, 224, 16]


def sample(size: tuple[int, int] = (20, 30)) -> Sample:
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0, 1, size[0] * size[1]).view(size)
    return Sample("a", ramp.expand(3, *size).clone(), {"depth": 1 + 8 * torch.rand(size, generator=generator)})


@pytest.mark.parametrize("kind", ["none", "flip", "crop", "scale-crop"])
def test_augmented_images_and_maps_keep_together(kind: Augment) -> None:
    space = LabelSpace(classes=("a", "b", "c"), ignore_index=255)
    image = torch.randint(0, 2, (3, 20, 30), generator=torch.Generator().manual_seed(0)).float()
    if kind == "scale-crop":
        image = torch.zeros(3, 20, 30)
        image[:, 8:, 13:] = 1
    one = Sample("a", image, {"segmentation": image[0].long()})
    change = Augmentation(kind, (16, 16), load_task("segmentation", space), 0)
    for epoch in range(8):
        seen = change(one, epoch)
        mask = seen.targets["segmentation"]
        assert mask.shape == seen.image.shape[1:]
        assert seen.image.shape[1:] == ((16, 16) if "crop" in kind else (20, 30))
        inside = mask != 255
        assert inside.any()
        if kind == "scale-crop":
            # Smooth halves survive resizing but for a pixel at their border.
            agree = mask[inside] == seen.image[0][inside].round().long()
            assert agree.double().mean() > 0.9
        else:
            assert torch.equal(mask[inside], seen.image[0][inside].long())


def test_augmentation_follows_seed_id_and_epoch_alone() -> None:
    def seen(seed: int = 0, epoch: int = 0, identity: str = "a") -> Tensor:
        change = Augmentation("crop", (8, 8), load_task("depth", LabelSpace()), seed)
        return change(sample()._replace(id=identity), epoch).image

    assert torch.equal(seen(), seen())
    assert not torch.equal(seen(), seen(seed=1))
    assert not torch.equal(seen(), seen(epoch=1))
    assert not torch.equal(seen(), seen(identity="b"))


@pytest.mark.parametrize("kind", ["resized-crop", "pad-crop"])
def test_crops_of_classified_images_have_the_asked_size_and_stay_in_the_box(kind: Augment) -> None:
    one = Sample("a", torch.rand(3, 16, 16), {"classification": torch.tensor(2)})
    for epoch in range(8):
        seen = Augmentation(kind, (16, 16), load_task("classification", LabelSpace()), 0)(one, epoch)
        assert seen.image.shape == (3, 16, 16)
        assert 0 <= seen.image.min() <= seen.image.max() <= 1
        assert seen.targets["classification"] == 2


def test_what_is_outside_the_image_has_no_label() -> None:
    change = Augmentation("crop", (40, 40), load_task("depth", LabelSpace()), 0)
    seen = change(sample(), 0)
    assert (seen.targets["depth"] > 0).sum() == 20 * 30
    segmented = Sample("a", torch.rand(3, 8, 8), {"segmentation": torch.zeros(8, 8, dtype=torch.int64)})
    mask = Augmentation("crop", (10, 10), load_task("segmentation", LabelSpace(classes=("x", "y"))), 0)(
        segmented, 0
    ).targets
    assert (mask["segmentation"] == 255).sum() == 36


SMALL: dict[str, Any] = {"train_limit": 12, "epochs": 1, "batch_size": 4}


@pytest.mark.parametrize(("recipe", "layers"), [("standard", None), ("paper", None), ("fast", 4), ("standard", 4)])
def test_heads_of_every_task_learn_and_are_cached(recipe: Any, layers: Any, deep_encoder: Encoder) -> None:
    spec = HeadSpec(recipe=recipe, layers=layers, **SMALL)
    data = train_data("scenes", Path("nowhere"), whole((16, 16)), spec)
    first = fit_probes(deep_encoder, data, list(TASKS), spec=spec, device=CPU)
    again = fit_probes(deep_encoder, data, list(TASKS), spec=spec, device=CPU)
    images = torch.rand(2, 3, 16, 16)
    for task in TASKS:
        model, fitted = first[task]
        assert torch.isfinite(torch.tensor(fitted.held_out_score))
        assert model.view.layers == fitted.design.layers
        assert layers in (None, fitted.design.layers)
        assert torch.equal(model(images), again[task][0](images))


def two_blocks() -> Encoder:
    return build(Architecture(img_size=16, patch_size=8, embed_dim=8, depth=2, num_heads=2), "file:two").freeze()


def plain_network() -> Encoder:
    network = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU())
    return rp.wrap(network, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), patch_size=8, input_size=16)


def stages_of_other_widths() -> Encoder:
    return timm_encoder("timm:resnet10t", create("resnet10t"), source="timm").freeze()


@pytest.mark.parametrize(("make", "readable"), [(two_blocks, 2), (plain_network, 1), (stages_of_other_widths, 1)])
def test_heads_of_every_recipe_read_no_more_blocks_than_the_encoder_shows(make: Any, readable: int) -> None:
    encoder = make()
    spec = HeadSpec(recipe="standard", **SMALL)
    data = train_data("scenes", Path("nowhere"), whole((32, 32)), spec)
    models = fit_probes(encoder, data, ["classification"], spec=spec, device=CPU)
    model, fitted = models["classification"]
    assert fitted.design.layers <= readable
    assert model(torch.rand(2, 3, 32, 32)).shape[0] == 2
    designs = recipe_for(spec, task_kind("classification"), encoder).designs
    assert {design.layers for design in designs} == {1, readable}
    note = HeadPlan(encoder, data, spec, (32, 32), {"classification": "key"}).notes
    assert len(note) == 1
    assert "recipe standard also tries 4" in note[0]


def test_blocks_that_are_asked_for_and_are_not_there_are_a_mistake() -> None:
    spec = HeadSpec(recipe="fast", layers=4, **SMALL)
    data = train_data("scenes", Path("nowhere"), whole((16, 16)), spec)
    with pytest.raises(UserError, match=r"layers"):
        fit_probes(plain_network(), data, ["classification"], spec=spec, device=CPU)


def test_a_head_on_four_layers_reads_four_layers(deep_encoder: Encoder) -> None:
    design = HeadDesign(4, "cls+patch", False)
    task = load_task("classification", LabelSpace(classes=("a", "b")))
    head = task.head(wide(deep_encoder.card.widths, 4), design)
    view = replace(Resized(size=(16, 16)), layers=4)
    features = view.features(deep_encoder, torch.rand(2, 3, 16, 16))
    assert features.cls.shape == (2, 32)
    assert head(features, (16, 16)).shape == (2, 2)


def feature_set() -> FeatureSet:
    generator = torch.Generator().manual_seed(0)
    cls = torch.randn(40, 6, generator=generator)
    return FeatureSet(cls, torch.zeros(40, 6, 1, 1), {"classification": cls[:, :3].argmax(1)}, (1, 1))


def fit_job(key: str = "", recipe: TaskRecipe | None = None) -> FitJob:
    task = load_task("classification", LabelSpace(classes=("a", "b", "c")))
    recipe = recipe or TaskRecipe(epochs=6, batch_size=16, learning_rates=(1e-2, 1e-1))
    return FitJob(task, recipe, FeatureDims(6, 6), feature_set(), 40, 0, CPU, key)


def test_an_interrupted_fit_goes_on_to_the_same_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "SAVE_EVERY_SECONDS", 0.0)
    straight = train_heads(fit_job())
    key = "interrupted"

    def stop(done: int, total: int) -> None:
        if done >= total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_heads(fit_job(key), stop)
    kept = cache.load_progress(key, CPU)
    assert kept is not None
    assert kept.epoch == 2
    seen: list[int] = []
    resumed = train_heads(fit_job(key), lambda done, total: seen.append(done))
    assert seen[0] == 3 * 40
    for ours, theirs in zip(resumed, straight, strict=True):
        assert all(map(torch.equal, ours.head.state_dict().values(), theirs.head.state_dict().values()))
    assert cache.load_progress(key, CPU) is None


def test_candidates_learn_together_as_they_would_alone() -> None:
    together = train_heads(fit_job())
    for rate, candidate in zip((1e-2, 1e-1), together, strict=True):
        (alone,) = train_heads(fit_job(recipe=TaskRecipe(epochs=6, batch_size=16, learning_rates=(rate,))))
        assert all(map(torch.equal, candidate.head.state_dict().values(), alone.head.state_dict().values()))


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_every_optimiser_and_schedule_learns(optimiser: Any, schedule: Any) -> None:
    recipe = TaskRecipe(
        optimiser=optimiser, schedule=schedule, epochs=60, batch_size=16, warmup=3, learning_rates=(0.1,), clip=35.0
    )
    done = fit_job(recipe=recipe)
    (score,) = mean_scores(done.task, train_heads(done), feature_set().parts("classification", CPU))
    assert score > 0.9


def test_rates_rise_in_warm_up_and_fall_as_scheduled() -> None:
    def shares(schedule: Any) -> list[float]:
        recipe = TaskRecipe(schedule=schedule)
        return [fitting.rate_share(recipe, done, 0.2) for done in (0.0, 0.1, 0.2, 0.6, 1.0)]

    assert shares("constant") == pytest.approx([0, 0.5, 1, 1, 1])
    assert shares("linear") == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert shares("cosine") == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_steps_count_batches() -> None:
    seen: list[int] = []
    recipe = TaskRecipe(steps=5, batch_size=16, learning_rates=(0.1,))
    train_heads(fit_job(recipe=recipe), lambda done, total: seen.append(done))
    assert seen == [40, 80]


@pytest.mark.parametrize("view", [Resized(size=(16, 16)), Padded(patch=8), Windows(window=16, stride=8)])
@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_streamed_maps_lie_where_their_image_does(view: View, task: str, tiny_encoder: Encoder) -> None:
    side = 16 if not isinstance(view, Padded) else 20
    data: Dataset = load_dataset("scenes", split="train", limit=5, size=(side, side))
    kind: Augment = "crop" if isinstance(view, Windows) else "flip"
    augmentation = Augmentation(kind, (16, 16), load_task(task, data.labels[task]), 0)
    streamed = Streamed(tiny_encoder, view, data, augmentation, 1)
    parts = list(streamed.epoch(task, torch.arange(5), 3, CPU, 0))
    assert [len(part.target) for part in parts] == [3, 2]
    for part in parts:
        assert part.size == part.target.shape[1:] == view.part_size((side, side))
        grid = part.features.patches.shape[-2:]
        assert (grid[0] * 8, grid[1] * 8) == part.size
    if isinstance(view, Padded):
        nothing = 255 if task == "segmentation" else 0
        assert (parts[0].target[:, :2] == nothing).all()


def test_features_too_large_for_memory_are_kept_in_a_file_and_are_the_same(
    tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_dataset("scenes", split="train", limit=6, size=(16, 16))
    view = Resized(size=(16, 16))
    within = probing.extract(tiny_encoder, view, data, 4, CPU)
    monkeypatch.setattr("robustprobe.probing.features.MOST_IN_MEMORY", 0)
    on_disk = probing.extract(tiny_encoder, view, data, 4, CPU)
    assert torch.equal(within.patches, on_disk.patches)
    assert torch.equal(within.cls, on_disk.cls)
    assert within.targets["depth"].equal(on_disk.targets["depth"])


@pytest.mark.parametrize(("recipe", "free"), [("fast", (44, 68)), ("standard", (64, 64)), ("paper", (32, 32))])
def test_an_encoder_of_one_size_is_shown_that_size_alone(recipe: Any, free: tuple[int, int], tmp_path: Path) -> None:
    card = EncoderCard(name="one", patch_size=4, input_size=(32, 32), widths=FeatureDims(8, 8), fixed_size=True)
    write_segfolder(tmp_path, {"train": 2, "test": 1})
    data = load_dataset(f"segfolder:{tmp_path}")

    def seen(card: EncoderCard) -> tuple[int, int]:
        found = probing.preprocessing_for(card, data, HeadSpec(recipe=recipe), tasks=["segmentation"])
        return found.views["segmentation"].part_size(data.typical_size)

    assert seen(card) == (32, 32)
    assert seen(card.model_copy(update={"fixed_size": False})) == free
