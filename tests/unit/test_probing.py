"""Heads are fitted alike every time, chosen by held-out images, and cached by what they depend on."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robustprobe import probing
from robustprobe.core.head_spec import HeadSpec
from robustprobe.core.types import FeatureDims, Features, LabelSpace
from robustprobe.core.views import Resized
from robustprobe.encoders import Encoder
from robustprobe.encoders.file import Architecture, build
from robustprobe.probing import (
    FeatureSet,
    FitJob,
    Fitted,
    cache,
    fit_head,
    fit_probes,
    head_fingerprint,
    mean_scores,
    train_data,
    train_heads,
)
from robustprobe.probing.fit import Candidate
from robustprobe.tasks import Head, Task, TaskRecipe, load_task
from tests.conftest import SHORT, SceneProbes, whole

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")
SPACE = LabelSpace(classes=("a", "b", "c"))
QUICK = TaskRecipe(epochs=6, batch_size=8, learning_rates=(3e-2,))


def feature_set(task: str, seed: int) -> FeatureSet:
    """Features from which the labels follow linearly."""
    generator = torch.Generator().manual_seed(seed)
    cls, patches = torch.randn(32, 6, generator=generator), torch.randn(32, 6, 2, 2, generator=generator)
    targets = {
        "classification": cls[:, :3].argmax(1),
        "segmentation": patches[:, :3].argmax(1),
        "depth": 2 + 6 * patches[:, 0].sigmoid(),
    }
    return FeatureSet(cls, patches, {task: targets[task]}, (2, 2))


def fit_job(task: Task, train: FeatureSet, recipe: TaskRecipe, seed: int = 0) -> FitJob:
    return FitJob(task, recipe, FeatureDims(6, 6), train, len(train.cls), seed, CPU)


def fit_once(task: Task, train: FeatureSet, recipe: TaskRecipe, seed: int = 0) -> Head:
    (candidate,) = train_heads(fit_job(task, train, recipe, seed))
    return candidate.head


def fit_best(task: Task, train: FeatureSet, val: FeatureSet, recipe: TaskRecipe) -> Fitted:
    def judge(candidates: Sequence[Candidate]) -> list[float]:
        return mean_scores(task, candidates, val.parts(task.name, CPU))

    return fit_head(fit_job(task, train, recipe), judge, lambda done, total: None)


def weights(head: Head) -> dict[str, list[float]]:
    return {name: tensor.tolist() for name, tensor in head.state_dict().items()}


@pytest.mark.parametrize("name", ["classification", "segmentation", "depth"])
def test_fitting_is_seeded_and_leaves_global_randomness_alone(name: str) -> None:
    task, train = load_task(name, SPACE), feature_set(name, 0)
    state = torch.get_rng_state()
    first = fit_once(task, train, QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    again = fit_once(task, train, QUICK)
    other = fit_once(task, train, QUICK, seed=1)
    assert weights(again) == weights(first)
    assert weights(other) != weights(first)
    assert not first.training
    assert not any(p.requires_grad for p in first.parameters())


@pytest.mark.parametrize("absurd", [1e-12, 1e30], ids=["tiny", "huge"])
@pytest.mark.parametrize("absurd_first", [True, False])
@pytest.mark.parametrize("name", ["classification", "segmentation", "depth"])
def test_learning_rate_is_chosen_by_the_held_out_score(name: str, absurd_first: bool, absurd: float) -> None:
    task, train, val = load_task(name, SPACE), feature_set(name, 0), feature_set(name, 1)
    rates = (absurd, 3e-2) if absurd_first else (3e-2, absurd)
    chosen = fit_best(task, train, val, QUICK.model_copy(update={"learning_rates": rates}))
    assert chosen.learning_rate == 3e-2
    scores = [task.score(task.rows(chosen.head(Features(val.cls, val.patches), val.size), val.targets[name]))]
    assert chosen.held_out_score == pytest.approx(float(torch.cat(scores).double().nanmean()), rel=1e-6)
    reference = fit_once(task, train, QUICK)
    assert weights(chosen.head) == weights(reference)


def test_fitting_learns() -> None:
    for name, better_than in (("classification", 0.8), ("segmentation", 0.8), ("depth", -0.8)):
        task, train, val = load_task(name, SPACE), feature_set(name, 0), feature_set(name, 1)
        recipe = QUICK.model_copy(update={"epochs": 40})
        score = fit_best(task, train, val, recipe).held_out_score
        assert (score if task.higher_is_better else -score) > better_than


def test_last_minibatch_of_one_image_is_skipped() -> None:
    task, train = load_task("classification", SPACE), feature_set("classification", 0)
    head = fit_once(task, train, QUICK.model_copy(update={"batch_size": 31}))
    assert all(torch.isfinite(v).all() for v in head.state_dict().values())


def test_features_are_the_encoders_and_labels_are_scaled_down(scene_probes: SceneProbes) -> None:
    features = probing.extract(scene_probes.encoder, Resized(size=(16, 16)), scene_probes.data.val, 4, CPU)
    samples = [scene_probes.data.val[i] for i in range(len(scene_probes.data.val))]
    expected = scene_probes.encoder(torch.stack([s.image for s in samples]))
    torch.testing.assert_close(features.cls, expected.cls)
    torch.testing.assert_close(features.patches, expected.patches)
    assert features.size == (4, 4)
    assert features.targets["depth"].shape == (len(samples), 4, 4)
    for position, sample in enumerate(samples):
        assert features.targets["classification"][position] == sample.targets["classification"]
        assert set(features.targets["depth"][position].unique().tolist()) <= set(
            sample.targets["depth"].unique().tolist()
        )


def outputs(probes: SceneProbes, images: Tensor) -> dict[str, Tensor]:
    return {name: model(images) for name, (model, _) in probes.fitted.items()}


def fit_again(probes: SceneProbes) -> SceneProbes:
    fitted = fit_probes(probes.encoder, probes.data, list(probes.fitted), spec=probes.spec, device=CPU)
    return probes._replace(fitted=fitted)


def assert_same_answers(first: SceneProbes, knn_head: SceneProbes) -> None:
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    a, b = outputs(first, images), outputs(knn_head, images)
    assert a.keys() == b.keys() >= {"classification", "segmentation", "depth", "normals"}
    assert all(torch.equal(a[name], b[name]) for name in a)
    for name in a:
        ours, theirs = first.fitted[name][1], knn_head.fitted[name][1]
        assert ours[1:4] == theirs[1:4]
        assert (ours.knn_head is None) == (theirs.knn_head is None) == (name != "classification")
        if ours.knn_head and theirs.knn_head:
            assert weights(ours.knn_head) == weights(theirs.knn_head)


def test_cached_heads_answer_alike_and_no_feature_is_extracted_again(
    scene_probes: SceneProbes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*given: object) -> FeatureSet:
        raise AssertionError("features were extracted although every head is cached")

    monkeypatch.setattr(probing, "extract", never)
    again = fit_again(scene_probes)
    assert_same_answers(scene_probes, again)
    for model, _ in again.fitted.values():
        assert not any(m.training for m in model.modules())
        assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("content", [b"", b"garbage", None], ids=["empty", "garbage", "cut short"])
def test_corrupt_cached_head_is_fitted_again(
    scene_probes: SceneProbes, head_cache: Path, content: bytes | None
) -> None:
    kept = sorted((head_cache / "heads").glob("*.safetensors"))
    assert len(kept) >= 3
    whole = {path: path.read_bytes() for path in kept}
    for path, original in whole.items():
        path.write_bytes(original[: len(original) // 2] if content is None else content)
    again = fit_again(scene_probes)
    assert_same_answers(scene_probes, again)
    keys = [fingerprint_of(scene_probes, task) for task in scene_probes.fitted]
    assert all((head_cache / "heads" / f"{key}.safetensors").stat().st_size > 100 for key in keys)
    assert not list((head_cache / "heads").glob(".*"))
    for path, original in whole.items():
        path.write_bytes(original)


def fingerprint_of(probes: SceneProbes, task: str) -> str:
    return head_fingerprint(probes.encoder.digest, task, probes.data, probes.spec)


def test_cache_that_cannot_be_written_does_not_stop_the_work(
    scene_probes: SceneProbes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ROBUSTPROBE_CACHE", str(tmp_path / "file"))
    assert_same_answers(scene_probes, fit_again(scene_probes))


def test_what_a_killed_process_left_in_the_cache_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ROBUSTPROBE_CACHE", str(tmp_path))
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads" / ".a.safetensors.x.writing").write_bytes(b"half")
    cache.save_weights("a", {"weight": torch.ones(2)}, {"rate": 1})
    cache.save_progress("a", cache.FitProgress(1, 2, [{"weight": torch.ones(2)}]))
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["a.pt", "a.safetensors"]
    weights, facts = cache.load_weights("a") or ({}, {})
    assert torch.equal(weights["weight"], torch.ones(2))
    assert facts == {"rate": 1}
    assert (cache.load_progress("a", CPU) or ())[:2] == (1, 2)


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ROBUSTPROBE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert probing.cache_folder() == tmp_path / "robustprobe"
    monkeypatch.setenv("ROBUSTPROBE_CACHE", str(tmp_path / "mine"))
    assert probing.cache_folder() == tmp_path / "mine"


def test_key_depends_on_weights_task_data_and_recipe(scene_probes: SceneProbes) -> None:
    def key(
        digest: str = scene_probes.encoder.digest,
        task: str = "depth",
        size: tuple[int, int] = (16, 16),
        spec: HeadSpec = SHORT,
    ) -> str:
        return head_fingerprint(digest, task, train_data("scenes", Path("nowhere"), whole(size), spec), spec)

    changes = {
        "kind": "mlp",
        "seed": 1,
        "epochs": 2,
        "pooling": "cls+patch",
        "label_stride": 2,
        "learning_rates": (1e-2,),
    }
    keys = [
        key(),
        key(digest="another"),
        key(task="segmentation"),
        key(size=(24, 24)),
        key(spec=SHORT.model_copy(update={"train_limit": 28})),
        *(key(spec=SHORT.model_copy(update={field: value})) for field, value in changes.items()),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]


def test_another_encoder_never_meets_an_old_head(scene_probes: SceneProbes) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        other = build(Architecture(img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2), "file:tiny").freeze()
    refitted = fit_probes(other, scene_probes.data, ["depth"], spec=SHORT, device=CPU)["depth"][1]
    assert weights(refitted.head) != weights(scene_probes.fitted["depth"][1].head)


def test_cached_head_of_another_shape_is_not_used(scene_probes: SceneProbes) -> None:
    key = fingerprint_of(scene_probes, "depth")
    task: Task = load_task("depth", LabelSpace())
    found: Fitted | None = probing.load_head(key, task, FeatureDims(16, 16))
    assert found is not None
    assert probing.load_head(key, task, FeatureDims(8, 8)) is None
    assert probing.load_head("no such head", task, FeatureDims(16, 16)) is None


def test_limit_on_train_limits_the_held_out_part_to_a_quarter(tiny_encoder: Encoder) -> None:
    data = train_data("scenes", Path("nowhere"), whole((16, 16)), SHORT)
    assert (len(data.train), len(data.val)) == (24, 6)
    assert not set(data.train.kept_ids) & set(data.val.kept_ids)
