"""The loop: what attacks may see, what judges measure, and in which precision."""

from pathlib import Path
from typing import Literal, cast

import pytest
import torch
from torch import Tensor

import robustprobe as rp
from robustprobe import Dataset, UserError, load_dataset
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.device import find_device
from robustprobe.core.types import Features
from robustprobe.encoders import Encoder
from robustprobe.evaluation.collect import Judged
from robustprobe.evaluation.evaluate import EvaluationSpec, evaluate, victim
from robustprobe.evaluation.examples import example_places
from robustprobe.losses.embedding import embedding_distance
from robustprobe.probing import surrogate_heads
from robustprobe.tasks import Head, Model
from tests.conftest import SceneProbes

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("scenes", root=Path("nowhere"), limit=7, size=(16, 16))


TARGET_TASK = {"pgd": "classification", "segpgd": "segmentation", "depthpgd": "depth"}


def work(
    probes: SceneProbes, data: Dataset, attack: str, precision: str = "fp32", batch_size: int = 3
) -> EvaluationSpec:
    models = {task: model for task, (model, _) in probes.fitted.items()}
    specs, target_task = (AttackSpec(name=attack, steps=3),), TARGET_TASK.get(attack, "")
    return EvaluationSpec(probes.encoder, models, data, specs, target_task, list(models), batch_size, precision, CPU)


def judged(work: EvaluationSpec) -> list[Judged]:
    return [batch for (batch,) in evaluate(work, keep=range(len(work.dataset)))]


def adversarial(parts: list[Judged]) -> Tensor:
    return torch.stack([one.adversarial for part in parts for one in part.kept])


def test_every_image_is_judged_once_by_every_head(scene_probes: SceneProbes, data: Dataset) -> None:
    parts = judged(work(scene_probes, data, "noise"))
    assert [len(p.ids) for p in parts] == [3, 3, 1]
    assert [i for p in parts for i in p.ids] == data.kept_ids
    assert [i for p in parts for i in p.positions.tolist()] == list(range(7))
    for part in parts:
        assert part.rows.keys() == part.rounded.keys() == {*data.labels}
        for one in part.kept:
            assert one.answers.keys() == one.scores.keys() == {*data.labels}
            for task, answer in one.answers.items():
                model = scene_probes.fitted[task][0]
                torch.testing.assert_close(answer, model.task.shown_output(model(one.adversarial[None])[0]))


def test_only_images_to_keep_are_kept_and_no_memory_of_their_batch(scene_probes: SceneProbes, data: Dataset) -> None:
    parts = [batch for (batch,) in evaluate(work(scene_probes, data, "noise"), keep={1, 6})]
    assert [one.position for part in parts for one in part.kept] == [1, 6]
    for part in parts:
        for one in part.kept:
            for tensor in (one.image, one.adversarial, one.damage, *one.targets.values(), *one.answers.values()):
                assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_rows_are_of_the_adversarial_images_and_rounded_rows_of_their_8_bit_version(
    scene_probes: SceneProbes, data: Dataset
) -> None:
    (part,) = judged(work(scene_probes, data, "embed", batch_size=10))
    model, made = scene_probes.fitted["depth"][0], adversarial([part])
    clean, targets = (torch.stack(some) for some in zip(*[(s.image, s.targets["depth"]) for s in data], strict=True))
    for images, rows in ((made, part.rows), ((made * 255).round() / 255, part.rounded)):
        torch.testing.assert_close(rows["depth"]["rmse"], model.task.rows(model(images), targets)["rmse"])
    assert not torch.equal(part.rows["depth"]["rmse"], part.rounded["depth"]["rmse"])
    torch.testing.assert_close(part.size, (made - clean).abs().amax((1, 2, 3)))


@pytest.mark.parametrize("attack", ["noise", "embed", "pgd", "segpgd", "depthpgd"])
def test_batch_size_changes_no_image_by_more_than_rounding(
    scene_probes: SceneProbes, data: Dataset, attack: str
) -> None:
    small, large = (adversarial(judged(work(scene_probes, data, attack, batch_size=b))) for b in (1, 7))
    torch.testing.assert_close(small, large, rtol=0, atol=1e-6)


@pytest.mark.parametrize("attack", ["embed", "pgd", "segpgd", "depthpgd"])
def test_reduced_precision_stays_in_the_ball_and_is_judged_in_fp32(
    scene_probes: SceneProbes, data: Dataset, attack: str
) -> None:
    for part in judged(work(scene_probes, data, attack, "bf16")):
        made = adversarial([part])
        assert made.dtype == torch.float32
        assert part.size.max() <= 8 / 255 + 1e-6
        for task, rows in part.rows.items():
            model = scene_probes.fitted[task][0]
            expected = model.task.rows(model(made), torch.stack([one.targets[task] for one in part.kept]))
            for name, column in expected.items():
                torch.testing.assert_close(rows[name], column)


def test_attack_sees_no_more_than_it_may(scene_probes: SceneProbes, data: Dataset) -> None:
    targets = {task: torch.zeros(1, 20, 20) for task in data.labels} | {"classification": torch.zeros(1)}
    for name in ("clean", "noise", "embed", "pgd", "segpgd", "depthpgd"):
        job, task = work(scene_probes, data, name), TARGET_TASK.get(name, "")
        seen = victim(job, targets, [0], (16, 16))
        assert seen.goals is None
        if not task:
            images = torch.rand(2, 3, 16, 16)
            assert all(map(torch.equal, seen.function(images), scene_probes.encoder(images)))
            assert seen.targets is None
            assert seen.attack_losses is None
            continue
        assert seen.function is scene_probes.fitted[task][0]
        assert seen.space == data.labels[task]
        assert seen.targets is not None
        assert seen.targets.shape == ((1,) if task == "classification" else (1, 16, 16))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("attack", ["embed", "embed:l2@0", "embed:towards-l2", "surrogate", "pgd", "depthpgd"])
def test_an_attack_from_python_is_that_of_a_run_to_the_bit(
    scene_probes: SceneProbes, data: Dataset, attack: str, precision: Literal["fp32", "bf16"]
) -> None:
    job = work(scene_probes, data, attack, precision, batch_size=7)
    judging = job.target_task or job.judges[0]
    images, targets = (torch.stack(some) for some in zip(*[(s.image, s.targets[judging]) for s in data], strict=True))
    goals = images.roll(-1, 0) if "towards" in attack else None
    found = rp.attack(
        scene_probes.fitted[judging][0],
        images,
        targets,
        attack=attack,
        steps=3,
        precision=precision,
        ids=data.kept_ids,
        goals=goals,
    )
    assert torch.equal(found.adversarial, adversarial(judged(job)))


def test_layers_of_the_encoder_are_attacked_in_reduced_precision_too(scene_probes: SceneProbes, data: Dataset) -> None:
    images = torch.stack([sample.image for sample in data])
    layers = []
    for precision in ("fp32", "bf16"):
        seen = victim(work(scene_probes, data, "embed:l2@0", precision), {}, range(7), (16, 16))
        assert seen.layers is not None
        layers.append(seen.layers(images, (0,))[0].patches)
    assert layers[1].dtype == torch.float32
    assert not torch.equal(*layers)
    torch.testing.assert_close(*layers, rtol=0.02, atol=0.05)


def test_surrogate_heads_are_loaded_once_for_all_batches_and_eps(
    scene_probes: SceneProbes, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(evaluate(work(scene_probes, data, "surrogate")))  # fits them where they are not in the cache
    loaded: list[tuple[int, int]] = []
    inner = surrogate_heads.fit_surrogate_heads

    def fit(encoder: Encoder, size: tuple[int, int], device: torch.device, code: str) -> list[Head]:
        loaded.append(size)
        # As if the source were edited during the run.
        monkeypatch.setattr(surrogate_heads, "code_digest", lambda: "another")
        return inner(encoder, size, device, code)

    monkeypatch.setattr(surrogate_heads, "fit_surrogate_heads", fit)
    sizes = (AttackSpec(name="surrogate", steps=1, eps=eps) for eps in (2 / 255, 8 / 255))
    assert len(list(evaluate(work(scene_probes, data, "surrogate")._replace(attacks=tuple(sizes))))) == 3
    assert loaded == [(16, 16)]


def test_embedding_goes_towards_the_next_image_of_the_dataset_whatever_the_batch(
    scene_probes: SceneProbes, data: Dataset
) -> None:
    specs = (AttackSpec(name="embed:towards-l2", steps=5),)
    small, large = (work(scene_probes, data, "embed", batch_size=b)._replace(attacks=specs) for b in (3, 7))
    torch.testing.assert_close(adversarial(judged(small)), adversarial(judged(large)), rtol=0, atol=1e-6)
    images = torch.stack([sample.image for sample in data])
    goals = scene_probes.encoder(images.roll(-1, 0))
    before, after = (embedding_distance(scene_probes.encoder(x), goals) for x in (images, adversarial(judged(large))))
    assert (after < before).all()


def test_larger_eps_starts_from_the_smaller_one_and_is_no_weaker(scene_probes: SceneProbes, data: Dataset) -> None:
    sizes = (1 / 255, 2 / 255, 4 / 255)
    specs = tuple(AttackSpec(name="depthpgd", eps=e, steps=2, warm=sizes[:i]) for i, e in enumerate(sizes))
    batches = list(evaluate(work(scene_probes, data, "depthpgd")._replace(attacks=specs)))
    rmse = [torch.cat([b[i].rows["depth"]["rmse"] for b in batches]) for i in range(3)]
    known = ~rmse[0].isnan()
    # The attack sees labels at the size of the images, the judge at their own.
    assert (rmse[1] - rmse[0])[known].min() > -0.01
    assert (rmse[2] - rmse[1])[known].min() > -0.01
    assert (rmse[2] - rmse[0])[known].mean() > 0


def test_encoder_that_answers_nan_is_an_error(scene_probes: SceneProbes, data: Dataset) -> None:
    class Broken(Encoder):
        def features(self, images: Tensor) -> Features:
            answer = cast(Features, scene_probes.encoder(images))
            return Features(answer.cls * torch.nan, answer.patches * torch.nan)

    encoder = Broken(scene_probes.encoder.card)
    models = {t: Model(encoder, m.head, m.task, m.view) for t, (m, _) in scene_probes.fitted.items()}
    broken = work(scene_probes, data, "noise")._replace(encoder=encoder, models=models)
    with pytest.raises(UserError, match="classification model answers NaN or infinity"):
        list(evaluate(broken))


def test_example_images_are_drawn_by_seed_and_id() -> None:
    ids = [f"image {i}" for i in range(50)]
    positions = example_places(ids, 6, seed=0)
    assert len(positions) == 6
    assert example_places(ids, 6, seed=0) == positions
    assert example_places(ids, 6, seed=1) != positions
    assert {ids[::-1][p] for p in example_places(ids[::-1], 6, seed=0)} == {ids[p] for p in positions}
    assert example_places(ids[:3], 6, seed=0) == {0, 1, 2}
    assert example_places(ids, 0, seed=0) == set()


def test_devices_are_found_or_refused() -> None:
    assert find_device("cpu") == CPU
    assert find_device("auto").type in ("cpu", "cuda")
    for name in ("gpu", "cuda:99", "", "meta:x"):
        with pytest.raises(UserError, match=f"device '{name}' is not available on this machine: .*Use cpu"):
            find_device(name)
