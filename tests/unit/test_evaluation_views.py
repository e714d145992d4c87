"""Windows, padding and images of several sizes: what is attacked is exactly what is judged."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import robustprobe as rp
from robustprobe import Dataset, LabelSpace, Model, load_dataset
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.fast_linear import fast_linear
from robustprobe.core.types import FeatureDims, HeadDesign
from robustprobe.core.views import Padded, Resized, View, Windows
from robustprobe.datasets import batches
from robustprobe.datasets.base import RawSample
from robustprobe.encoders import Encoder
from robustprobe.evaluation.collect import Judged, RowCollector
from robustprobe.evaluation.cost import pair_batch
from robustprobe.evaluation.evaluate import EvaluationSpec, check_again, evaluate, victim
from robustprobe.tasks import load_task

pytestmark = pytest.mark.unit

VIEWS = [Resized(size=(24, 24)), Padded(patch=8), Windows(window=16, stride=5), Windows(layers=1, window=24, stride=8)]
OWN = {"segmentation": "segpgd", "depth": "depthpgd"}
SPACES = {"segmentation": LabelSpace(classes=("a", "b", "c")), "depth": LabelSpace()}


def model(encoder: Encoder, task: str, view: View) -> Model:
    kind = load_task(task, SPACES[task])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = kind.head(encoder.card.widths, HeadDesign(pooling="patch"))
    return Model(encoder, head, kind, view).eval().requires_grad_(False)


class Varied(Dataset):
    """Images of three sizes with maps of their own size."""

    labels: ClassVar = SPACES
    native_size: ClassVar = (20, 30)
    sizes: ClassVar = ((20, 30), (20, 30), (40, 27), (40, 27), (40, 27), (16, 18))

    def ids(self) -> list[str]:
        return [str(i) for i in range(len(self.sizes))]

    def read(self, index: int) -> RawSample:
        generator = np.random.default_rng(index)
        height, width = self.sizes[index]
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        mask: NDArray[np.uint8] = generator.integers(0, 3, (height, width), dtype=np.uint8)
        depth: NDArray[np.float32] = generator.uniform(1, 9, (height, width)).astype(np.float32)
        return RawSample(Image.fromarray(pixels), {"segmentation": mask, "depth": depth})


def varied() -> Dataset:
    return Varied(Path(), "test", 20).select(None)


def work(encoder: Encoder, task: str, view: View, attack: str, data: Dataset, batch_size: int = 4) -> EvaluationSpec:
    models = {task: model(encoder, task, view)}
    target_task = task if attack == OWN[task] else ""
    spec = AttackSpec(name=attack, steps=2, eps=0 if attack == "clean" else 8 / 255)
    return EvaluationSpec(encoder, models, data, (spec,), target_task, [task], batch_size, "fp32", torch.device("cpu"))


def judged(job: EvaluationSpec) -> list[Judged]:
    return [batch for (batch,) in evaluate(job, keep=range(len(job.dataset)))]


def stacked(part: Judged) -> tuple[Tensor, Tensor]:
    """Images and adversarial images of a batch, all of which were kept."""
    return torch.stack([one.image for one in part.kept]), torch.stack([one.adversarial for one in part.kept])


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("task", OWN)
def test_the_attacks_clean_prediction_is_the_evaluations(task: str, view: View, tiny_encoder: Encoder) -> None:
    data = varied()
    job = work(tiny_encoder, task, view, OWN[task], data)
    for part in judged(work(tiny_encoder, task, view, "clean", data)):
        images, _ = stacked(part)
        targets = torch.stack([one.targets[task] for one in part.kept])
        seen = victim(job, {task: targets}, part.positions.tolist(), (images.shape[-2], images.shape[-1]))
        with fast_linear(), torch.no_grad():
            output = seen.function(images)
        for name, column in job.models[task].task.rows(output, targets).items():
            assert torch.equal(column, part.rows[task][name])
        for one, answer in zip(part.kept, output, strict=True):
            assert torch.equal(job.models[task].task.shown_output(answer), one.answers[task])


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("task", "attack"), [("segmentation", "segpgd"), ("depth", "depthpgd"), ("depth", "embed")])
def test_images_of_several_sizes_are_attacked_and_scored_as_each_alone(
    task: str, attack: str, view: View, tiny_encoder: Encoder
) -> None:
    together = judged(work(tiny_encoder, task, view, attack, varied()))
    assert [name for part in together for name in part.ids] == varied().kept_ids
    assert len({tuple(one.adversarial.shape) for part in together for one in part.kept}) == 3
    alone = judged(work(tiny_encoder, task, view, attack, varied(), batch_size=1))
    for name in together[0].rows[task]:
        ours, theirs = (torch.cat([part.rows[task][name] for part in run]) for run in (together, alone))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    for part in together:
        assert part.size.max() <= 8 / 255 + 1e-6
        for one in part.kept:
            assert one.answers[task].shape[-2:] == view.output_size((one.image.shape[-2], one.image.shape[-1]))


@pytest.mark.parametrize("view", VIEWS)
def test_attacks_that_know_the_model_harm_it_through_its_view(view: View, tiny_encoder: Encoder) -> None:
    clean, attacked = (
        torch.cat([part.rows["depth"]["rmse"] for part in judged(work(tiny_encoder, "depth", view, a, varied()))])
        for a in ("clean", "depthpgd")
    )
    assert (attacked > clean).all()


@pytest.mark.parametrize("attack", ["embed", "embed:l2@0", "surrogate", "embed:towards-l2"])
@pytest.mark.parametrize("view", VIEWS)
def test_attacks_on_the_encoder_see_what_the_models_see(attack: str, view: View, tiny_encoder: Encoder) -> None:
    job = work(tiny_encoder, "segmentation", view, "embed", varied())
    job = job._replace(attacks=(AttackSpec(name=attack, steps=2),))
    for part in judged(job):
        images, made = stacked(part)
        function = victim(job, {}, part.positions.tolist(), (images.shape[-2], images.shape[-1])).function
        moved = function(made).patches - function(images).patches
        assert moved.flatten(1).abs().amax(1).min() > 0
        assert len(moved) == len(part.ids)


def test_labels_of_the_victim_are_as_large_as_its_output(tiny_encoder: Encoder) -> None:
    for view in VIEWS:
        job = work(tiny_encoder, "segmentation", view, "segpgd", varied())
        for batch in batches(job.dataset, 3):
            size = (batch.images.shape[-2], batch.images.shape[-1])
            seen = victim(job, batch.targets, [0], size)
            assert seen.targets is not None
            assert seen.targets.shape[-2:] == job.models["segmentation"](batch.images).shape[-2:]


def test_checks_run_on_the_most_common_shape(tiny_encoder: Encoder) -> None:
    job = work(tiny_encoder, "depth", Windows(window=16, stride=8), "depthpgd", varied())
    collector = RowCollector(job.attacks[0], {0, 2, 3, 5})
    for part in judged(job):
        collector.take(part)
    checks = check_again(job, job.attacks[0], collector.kept)
    assert {"second restart", "eps 0", "black box"} <= {check.name for check in checks["depth"]}
    assert len(collector.columns("depth")["rmse"]) == 6


def test_attack_from_python_goes_through_the_view(tiny_encoder: Encoder) -> None:
    images = torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 3, (2, 40, 60), generator=torch.Generator().manual_seed(1))
    for view in VIEWS:
        seen = model(tiny_encoder, "segmentation", view)
        for attack in ("segpgd", "embed", "surrogate"):
            result = rp.attack(seen, images, target, attack=attack, steps=2)
            assert result.adversarial.shape == images.shape
            assert result.score.shape == (2,)


def test_layers_of_several_blocks_are_judged_together() -> None:
    encoder = rp.load_encoder("bundled:scenes")
    view = replace(Resized(size=(64, 64)), layers=2)
    kind = load_task("depth", LabelSpace())
    widths = encoder.card.widths
    head = kind.head(FeatureDims(2 * widths.cls, 2 * widths.patch), HeadDesign())
    two = Model(encoder, head, kind, view).eval().requires_grad_(False)
    data = load_dataset("scenes", limit=2)
    spec = AttackSpec(name="depthpgd", steps=2)
    job = EvaluationSpec(encoder, {"depth": two}, data, (spec,), "depth", ["depth"], 2, "fp32", torch.device("cpu"))
    (part,) = judged(job)
    _, made = stacked(part)
    expected: Tensor = two(made)
    torch.testing.assert_close(torch.stack([one.answers["depth"] for one in part.kept]), expected)
    assert job.view.layers == 1


def test_fewer_images_at_once_where_each_takes_more() -> None:
    encoder, scenes = rp.load_encoder("bundled:scenes"), load_dataset("scenes", limit=2)
    assert pair_batch(64, encoder, Resized(size=(64, 64)), scenes) == 64
    large = load_dataset("scenes", limit=2, size=(1024, 1024))
    maps = len(large.labels["segmentation"].classes) * 4 * 1024**2
    assert pair_batch(64, encoder, Resized(size=(1024, 1024)), large) == 2**30 // maps
    windows = Windows(window=64, stride=32)
    assert pair_batch(64, encoder, windows, scenes) == 64
    assert pair_batch(64, encoder, windows, load_dataset("scenes", limit=2, size=(128, 128))) == 64 // 9
    assert pair_batch(64, encoder, windows, large) == 1
