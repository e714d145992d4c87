"""Rows are the same bits whatever batch an image is in."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from robustprobe import Encoder, EncoderCard, FeatureDims, Features, load_dataset, load_encoder
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.sums import image_sums, mean_of, sum_of
from robustprobe.encoders import Encoder as AnyEncoder
from robustprobe.evaluation.batch_invariant import BatchInvariantEncoder, batch_invariant, cuts, invariant_sizes
from robustprobe.evaluation.evaluate import EvaluationSpec, evaluate
from robustprobe.probing import fit_probes, preprocessing_for, train_data
from tests.conftest import SHORT

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")
ATTACKS = {"pgd": "classification", "segpgd": "segmentation", "depthpgd": "depth", "embed": "", "surrogate": ""}


def work_with(name: str, images: int) -> EvaluationSpec:
    encoder = load_encoder(name)
    data = load_dataset("scenes", root=Path("nowhere"), limit=images)
    train = train_data("scenes", Path("nowhere"), preprocessing_for(encoder.card, data, SHORT), SHORT)
    probes = fit_probes(encoder, train, list(data.labels), spec=SHORT, device=CPU)
    models = {task: model for task, (model, _) in probes.items()}
    return batch_invariant(EvaluationSpec(encoder, models, data, (), "", list(models), images, "fp32", CPU))


def columns(work: EvaluationSpec, batch_size: int, order: list[int]) -> dict[str, Tensor]:
    """All that a store would hold of the images, in the order of the dataset."""
    found = [judged for (judged,) in evaluate(work._replace(batch_size=batch_size), order, keep=order)]
    named = {"perturbation": [part.size for part in found]}
    named |= {"image": [torch.stack([one.adversarial for one in part.kept]) for part in found]}
    named |= {"damage": [torch.stack([one.damage for one in part.kept]) for part in found]}
    for task in work.judges:
        for column in found[0].rows[task]:
            named[f"{task} {column}"] = [part.rows[task][column] for part in found]
            named[f"{task} {column} 8 bit"] = [part.rounded[task][column] for part in found]
    positions = torch.tensor([position for part in found for position in part.positions]).argsort()
    return {name: torch.cat(parts)[positions] for name, parts in named.items()}


@pytest.mark.parametrize("encoder", ["bundled:scenes", "bundled:photos-deacl"])
def test_rows_are_the_same_bits_in_any_batch_and_any_order(encoder: str) -> None:
    images = 11
    work = work_with(encoder, images)
    shuffled = torch.randperm(images, generator=torch.Generator().manual_seed(0)).tolist()
    for attack, target_task in ATTACKS.items():
        one = work._replace(attacks=(AttackSpec(name=attack, steps=2),), target_task=target_task)
        wanted = columns(one, images, list(range(images)))
        for batch_size, order in ((1, shuffled), (4, shuffled[::-1])):
            found = columns(one, batch_size, order)
            for name, values in wanted.items():
                torch.testing.assert_close(found[name], values, rtol=0, atol=0, equal_nan=True, msg=f"{attack} {name}")


class Fickle(Encoder):
    """Answers otherwise in batches of four to eight, as a library with kernels of several sizes does."""

    def __init__(self) -> None:
        super().__init__(EncoderCard(name="fickle", patch_size=4, input_size=(8, 8), widths=FeatureDims(3, 3)))

    def features(self, images: Tensor) -> Features:
        patches = torch.nn.functional.avg_pool2d(images, 4)
        patches = patches * (1 + 1e-6 * (4 <= len(images) <= 8))
        return Features(patches.mean((2, 3)), patches)


def test_an_encoder_sees_batches_only_where_they_change_no_bit() -> None:
    assert invariant_sizes(Fickle(), (3, 8, 8)) == (1, 2, 16, 32)
    steady: AnyEncoder = BatchInvariantEncoder(Fickle())
    images = torch.rand(23, 3, 8, 8)
    alone = torch.cat([Fickle()(image[None]).patches for image in images])
    assert torch.equal(steady(images).patches, alone)
    assert torch.equal(steady(images[:7]).patches, alone[:7])
    assert steady.digest == BatchInvariantEncoder(Fickle()).digest


def test_batches_are_cut_without_rest() -> None:
    assert cuts(23, (1, 2, 16)) == [16, 2, 2, 2, 1]
    assert cuts(3, (1,)) == [1, 1, 1]


def test_a_lone_image_is_summed_as_among_others() -> None:
    values = torch.randn(3, 3, 200, 200, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        alone = torch.cat([image_sums(one[None]) for one in values])
        assert torch.equal(alone, image_sums(values))
        torch.set_num_threads(1)
        assert torch.equal(alone, image_sums(values))
    finally:
        torch.set_num_threads(threads)


def test_sums_of_several_losses_do_not_depend_on_the_place_in_the_batch() -> None:
    parts = [torch.randn(37, generator=torch.Generator().manual_seed(seed)) for seed in range(6)]
    for position in range(37):
        here = [part[position : position + 1] for part in parts]
        assert torch.equal(sum_of(here), sum_of(parts)[position : position + 1])
        assert torch.equal(mean_of(here), mean_of(parts)[position : position + 1])
