"""Losses are finite, one number per image, and sensitive to what they must be sensitive to."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustprobe.core.errors import UserError
from robustprobe.core.registry import tasks
from robustprobe.core.types import AttackLoss, AttackLosses, LabelSpace, LossContext
from robustprobe.losses import classification, segmentation
from robustprobe.losses import depth as depth_losses
from robustprobe.losses import normals as normal_losses
from robustprobe.losses._masked import masked_mean
from robustprobe.tasks import load_task

pytestmark = pytest.mark.unit

IGNORE = 255


def labels_of(logits: Tensor, which: str) -> Tensor:
    """Labels for which all, no or no labelled pixel is correct."""
    if which == "ignored":
        return torch.full_like(logits[:, 0], IGNORE).long()
    best, worst = logits.argmax(1), logits.argmin(1)
    return best if which == "correct" else worst


@pytest.mark.parametrize("step", [0, 3, 4])
@pytest.mark.parametrize("which", ["correct", "wrong", "ignored"])
def test_segmentation_losses_and_gradients_are_finite(which: str, step: int) -> None:
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    pixels = segmentation.segmentation_pixels(logits, labels_of(logits, which), IGNORE)
    for loss in (segmentation.segpgd(pixels, step / 4), segmentation.segmentation_cross_entropy(pixels)):
        assert loss.shape == (2,)
        assert torch.isfinite(loss).all()
        (gradient,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
        assert torch.isfinite(gradient).all()


def test_segpgd_sees_correct_pixels_only_at_the_first_step_and_both_alike_at_the_end() -> None:
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    correct, wrong = (
        segmentation.segmentation_pixels(logits, labels_of(logits, w), IGNORE) for w in ("correct", "wrong")
    )
    assert (segmentation.segpgd(wrong, 0) == 0).all()
    assert torch.equal(segmentation.segpgd(correct, 0), segmentation.segmentation_cross_entropy(correct))
    for pixels in (correct, wrong):
        torch.testing.assert_close(segmentation.segpgd(pixels, 1), segmentation.segmentation_cross_entropy(pixels) / 2)


def test_ignored_pixels_have_no_value_and_no_gradient() -> None:
    logits = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    target = torch.tensor([[[IGNORE, 0], [1, 2]]])
    pixels = segmentation.segmentation_pixels(logits, target, IGNORE)
    (gradient,) = torch.autograd.grad(segmentation.segmentation_cross_entropy(pixels).sum(), logits)
    assert (gradient[0, :, 0, 0] == 0).all()
    assert (gradient[0, :, 1, 1] != 0).all()
    plain = classification.cross_entropy(logits.permute(0, 2, 3, 1).reshape(4, 3)[1:], torch.tensor([0, 1, 2]))
    torch.testing.assert_close(segmentation.segmentation_cross_entropy(pixels), plain.mean()[None])


@pytest.mark.parametrize("case", ["equal", "no valid pixel", "zero depth"])
def test_scale_invariant_log_is_finite_with_a_finite_gradient(case: str) -> None:
    target = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.5
    depth = target.clone()
    if case == "no valid pixel":
        target = torch.zeros_like(target)
    if case == "zero depth":
        depth[:, 0] = 0
    depth.requires_grad_(True)
    loss = depth_losses.scale_invariant_log(depth, target)
    (gradient,) = torch.autograd.grad(loss.sum(), depth)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(gradient).all()
    assert bool((loss < 1e-3).all()) is not (case == "zero depth")


@pytest.mark.parametrize("axis", [1, 2])
def test_scale_invariant_log_sees_structure_along_rows_and_columns(axis: int) -> None:
    """Errors that cancel in the mean: only the variance term sees them. A sum over one axis too few would not."""
    target = torch.full((1, 4, 4), 2.0)
    factor = torch.tensor([2.0, 0.5, 2.0, 0.5])
    depth = target * (factor[None, :, None] if axis == 1 else factor[None, None, :])
    loss = depth_losses.scale_invariant_log(depth, target)
    torch.testing.assert_close(loss, torch.log(torch.tensor([2.0])))


def test_scale_invariant_log_counts_a_common_factor_little() -> None:
    target = torch.full((1, 4, 4), 2.0)
    loss = depth_losses.scale_invariant_log(3 * target, target)
    torch.testing.assert_close(loss, 0.15**0.5 * torch.log(torch.tensor([3.0])))


def test_losses_never_compare_images() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(3, 4, 5, 5, generator=generator), torch.randint(0, 4, (3, 5, 5), generator=generator)
    depth, metres = torch.rand(3, 5, 5, generator=generator) + 0.1, torch.rand(3, 5, 5, generator=generator)
    together = segmentation.segpgd(segmentation.segmentation_pixels(logits, target, IGNORE), 1 / 4)
    silog = depth_losses.scale_invariant_log(depth, metres)
    for i in range(3):
        alone = segmentation.segpgd(segmentation.segmentation_pixels(logits[[i]], target[[i]], IGNORE), 1 / 4)
        torch.testing.assert_close(alone, together[[i]])
        torch.testing.assert_close(depth_losses.scale_invariant_log(depth[[i]], metres[[i]]), silog[[i]])


def test_masked_mean_of_nothing_is_0() -> None:
    values, mask = torch.tensor([[1.0, 3.0], [5.0, torch.nan]]), torch.tensor([[True, True], [False, False]])
    assert masked_mean(values, mask).tolist() == [2.0, 0.0]


SPACE = LabelSpace(classes=tuple("abcde"), ignore_index=IGNORE)


def scores(seed: int = 0) -> Tensor:
    return torch.randn(3, 5, generator=torch.Generator().manual_seed(seed))


def similarities() -> Tensor:
    """Of queries to 40 items, close together as those of real galleries: a histogram of few items has no gradient."""
    return torch.randn(3, 40, generator=torch.Generator().manual_seed(0)).tanh()


def relevance() -> Tensor:
    """Of each query what every item is: 1 easy, 2 hard, 3 junk, 0 another place."""
    return torch.tensor([[1, 2, 0, 0, 3], [0, 1, 2, 3, 0], [0, 0, 1, 0, 2]])


def maps(seed: int = 0) -> Tensor:
    return torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(seed))


def metres(seed: int = 0) -> Tensor:
    return 0.5 + 4 * torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(seed))


def unit_normals(seed: int = 0, size: tuple[int, int] = (4, 6)) -> Tensor:
    return F.normalize(torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(seed)), dim=1)


def places(seed: int = 0) -> Tensor:
    """Where each of 4 x 6 patches is in another view, x and y, and that it is seen."""
    found = torch.rand(3, 3, 4, 6, generator=torch.Generator().manual_seed(seed))
    found[:, 2] = 1
    return found


def still(found: Tensor) -> Tensor:
    """The same label with each patch at its own place."""
    x, y = ((torch.arange(count) + 0.5) / count for count in (6, 4))
    return torch.stack([x.expand(3, 4, 6), y[:, None].expand(3, 4, 6), found[:, 2]], 1)


# By task and case: an output, and its label.
AWKWARD: dict[str, dict[str, Callable[[], tuple[Tensor, Tensor]]]] = {
    "classification": {
        "ordinary": lambda: (scores(), torch.tensor([0, 1, 2])),
        "nothing correct": lambda: (scores(), scores().argmin(1)),
        "all correct": lambda: (scores(), scores().argmax(1)),
        "prediction is the target": lambda: (F.one_hot(scores().argmax(1), 5).float(), scores().argmax(1)),
        "huge and wrong": lambda: (1e4 * scores(), scores().argmin(1)),
        "huge and correct": lambda: (1e4 * scores(), scores().argmax(1)),
        "huge and equal": lambda: (torch.full((3, 5), 1e4), torch.tensor([0, 1, 2])),
        "nothing but zeros": lambda: (torch.zeros(3, 5), torch.tensor([0, 1, 2])),
        "all but the label equal": lambda: (1e4 * (1 - F.one_hot(torch.arange(3), 5).float()), torch.arange(3)),
    },
    "segmentation": {
        "ordinary": lambda: (maps(), maps(1).argmax(1)),
        "no pixel correct": lambda: (maps(), maps().argmin(1)),
        "all correct": lambda: (maps(), maps().argmax(1)),
        "all ignored": lambda: (maps(), torch.full((3, 4, 6), IGNORE)),
        "all but one ignored": lambda: (
            maps(),
            torch.where(torch.arange(24).reshape(4, 6) == 0, maps().argmax(1), IGNORE),
        ),
        "prediction is the target": lambda: (
            F.one_hot(maps().argmax(1), 5).movedim(-1, 1).float(),
            maps().argmax(1),
        ),
        "huge and wrong": lambda: (1e4 * maps(), maps().argmin(1)),
        "huge and correct": lambda: (1e4 * maps(), maps().argmax(1)),
        "nothing but zeros": lambda: (torch.zeros(3, 5, 4, 6), maps().argmax(1)),
    },
    "depth": {
        "ordinary": lambda: (metres(), metres(1)),
        "no valid depth": lambda: (metres(), torch.zeros(3, 4, 6)),
        "one valid depth": lambda: (metres(), torch.where(torch.arange(24).reshape(4, 6) == 0, metres(1), 0)),
        "prediction is the target": lambda: (metres(), metres()),
        "prediction is 0": lambda: (torch.zeros(3, 4, 6), metres()),
        "prediction is below 0": lambda: (-metres(), metres()),
        "huge": lambda: (1e4 * metres(), metres(1)),
        "label is tiny": lambda: (metres(), 1e-3 * metres(1)),
    },
    "normals": {
        "ordinary": lambda: (2 * unit_normals() + 0.1 * unit_normals(1), unit_normals()),
        "no label": lambda: (unit_normals(), torch.zeros(3, 3, 4, 6)),
        "one label": lambda: (unit_normals(1), torch.where(torch.arange(24).reshape(4, 6) == 0, unit_normals(), 0)),
        "prediction is the target": lambda: (unit_normals(), unit_normals()),
        "prediction along the target": lambda: (3 * unit_normals(), unit_normals()),
        "prediction is the opposite": lambda: (-unit_normals(), unit_normals()),
        "prediction is 0": lambda: (torch.zeros(3, 3, 4, 6), unit_normals()),
        "prediction along an axis": lambda: (torch.eye(3)[:, :, None, None] * torch.ones(3, 3, 4, 6), unit_normals()),
        "tiny": lambda: (1e-30 * unit_normals(1), unit_normals()),
        "barely a direction": lambda: (2e-8 * unit_normals(1), unit_normals()),
        "huge": lambda: (1e9 * unit_normals(1), unit_normals()),
    },
    "retrieval": {
        "ordinary": lambda: (similarities(), relevance().repeat(1, 8) == 1),
        "relevant items first": lambda: ((relevance() == 1).float(), relevance() == 1),
        "relevant items last": lambda: (-(relevance() == 1).float(), relevance() == 1),
        "nothing relevant": lambda: (scores().tanh(), torch.zeros(3, 5, dtype=torch.bool)),
        "everything relevant": lambda: (scores().tanh(), torch.ones(3, 5, dtype=torch.bool)),
        "all as near": lambda: (torch.zeros(3, 5), relevance() == 1),
    },
    "landmarks": {
        "ordinary": lambda: (similarities(), relevance().repeat(1, 8)),
        "relevant items first": lambda: ((relevance() == 1).float(), relevance()),
        "nothing but junk": lambda: (scores().tanh(), torch.full((3, 5), 3)),
        "nothing relevant": lambda: (scores().tanh(), torch.zeros(3, 5, dtype=torch.int64)),
        "all as near": lambda: (torch.zeros(3, 5), relevance()),
    },
    "poisoning": {
        "ordinary": lambda: (similarities() - 0.5, torch.zeros(3)),
        "returned by all": lambda: (torch.ones(3, 5), torch.zeros(3)),
        "returned by none": lambda: (-torch.ones(3, 5), torch.zeros(3)),
        "as near as the last": lambda: (torch.zeros(3, 5), torch.zeros(3)),
    },
    "copies": {
        "ordinary": lambda: (similarities(), relevance().repeat(1, 8) == 1),
        "all correct": lambda: ((relevance() == 1).float(), relevance() == 1),
        "nothing correct": lambda: (-(relevance() == 1).float(), relevance() == 1),
        "no copy": lambda: (scores().tanh(), torch.zeros(3, 5, dtype=torch.bool)),
        "copies of every item": lambda: (scores().tanh(), torch.ones(3, 5, dtype=torch.bool)),
        "all as near": lambda: (torch.zeros(3, 5), relevance() == 1),
    },
    "correspondence": {
        "ordinary": lambda: (maps(), places()),
        "each patch where it is": lambda: (maps(), still(places())),
        "nothing seen": lambda: (maps(), places() * torch.tensor([1.0, 1, 0])[:, None, None]),
        "one pixel seen": lambda: (maps(), places() * F.one_hot(torch.tensor(7), 24).view(4, 6)),
        "all patches alike": lambda: (torch.ones(3, 5, 4, 6), places()),
        "patches without length": lambda: (torch.zeros(3, 5, 4, 6), places()),
        "huge": lambda: (1e9 * maps(), places()),
    },
}


def measures(attack_losses: AttackLosses) -> dict[str, AttackLoss]:
    """Everything a task has an attack raise or compare."""
    extra = {"harm": attack_losses.damage} | ({"track": attack_losses.step_loss} if attack_losses.step_loss else {})
    return {**attack_losses.losses, **extra}


LOSSES = [(task, name) for task in AWKWARD for name in measures(load_task(task, SPACE).attack_losses)]
CASES = [(task, name, case) for task, name in LOSSES for case in AWKWARD[task]]


def aim_at(label: Tensor) -> LossContext:
    """At the next class, where a loss wants one; half of the steps are done."""
    return LossContext(label, SPACE, 0.5, (label + 1) % 5 if label.ndim == 1 else None)


def test_every_task_has_its_awkward_cases() -> None:
    assert AWKWARD.keys() == {*tasks.files}


@pytest.mark.parametrize(("task", "name", "case"), CASES)
def test_every_loss_and_its_gradient_are_finite_one_number_an_image(task: str, name: str, case: str) -> None:
    output, label = AWKWARD[task][case]()
    output.requires_grad_(True)
    value = measures(load_task(task, SPACE).attack_losses)[name](output, aim_at(label))
    assert value.shape == (3,)
    assert torch.isfinite(value).all()
    (gradient,) = torch.autograd.grad(value.sum(), output)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(("task", "name"), LOSSES)
def test_every_loss_has_a_gradient_on_an_ordinary_image(task: str, name: str) -> None:
    output, label = AWKWARD[task]["ordinary"]()
    output.requires_grad_(True)
    value = measures(load_task(task, SPACE).attack_losses)[name](output, aim_at(label))
    (gradient,) = torch.autograd.grad(value.sum(), output)
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize(("task", "name", "case"), CASES)
def test_no_loss_compares_images(task: str, name: str, case: str) -> None:
    output, label = AWKWARD[task][case]()
    loss = measures(load_task(task, SPACE).attack_losses)[name]
    together = loss(output, aim_at(label))
    alone = [loss(output[[i]], aim_at(label[[i]])) for i in range(3)]
    torch.testing.assert_close(torch.cat(alone), together)


@pytest.mark.parametrize("task", [t for t in AWKWARD if load_task(t, SPACE).attack_losses.success])
def test_broken_images_are_those_without_anything_correct(task: str) -> None:
    success = load_task(task, SPACE).attack_losses.success
    assert success is not None
    right, wrong = ("all correct", "no pixel correct" if task == "segmentation" else "nothing correct")
    assert not success(*_output_and_aim(task, right)).any()
    assert success(*_output_and_aim(task, wrong)).all()


def _output_and_aim(task: str, case: str) -> tuple[Tensor, LossContext]:
    output, label = AWKWARD[task][case]()
    return output, aim_at(label)


@pytest.mark.parametrize("name", ["targeted-dlr", "targeted-ce"])
def test_targeted_losses_raise_the_goal(name: str) -> None:
    output, label = AWKWARD["classification"]["all correct"]()
    output.requires_grad_(True)
    attack_losses, aim = load_task("classification", SPACE).attack_losses, aim_at(label)
    assert name in attack_losses.targeted
    assert aim.goal is not None
    (gradient,) = torch.autograd.grad(attack_losses.losses[name](output, aim).sum(), output)
    to_goal, to_label = (gradient.gather(1, classes[:, None]) for classes in (aim.goal, label))
    assert (to_goal > 0).all()
    # DLR divides by a gap that holds the label too, so that alone it may go either way.
    assert (to_goal > to_label).all()


@pytest.mark.parametrize(("name", "classes"), [("dlr", 2), ("targeted-dlr", 3)])
def test_dlr_with_too_few_classes_is_an_error_that_names_another_loss(name: str, classes: int) -> None:
    loss = load_task("classification", SPACE).attack_losses.losses[name]
    with pytest.raises(UserError, match=f"{name} needs {classes + 1} classes or more, the model has {classes}; use"):
        loss(torch.zeros(1, classes), aim_at(torch.zeros(1, dtype=torch.int64)))


def test_dlr_does_not_change_with_the_scale_of_the_logits() -> None:
    output, label = AWKWARD["classification"]["all correct"]()
    torch.testing.assert_close(classification.dlr(100 * output, label), classification.dlr(output, label))


def test_harm_of_a_fooled_image_is_above_that_of_any_other() -> None:
    damage, label = load_task("classification", SPACE).attack_losses.damage, torch.zeros(2, dtype=torch.int64)
    barely_wrong, barely_right = torch.tensor([0.0, 1e-3, -9, -9, -9]), torch.tensor([1e-3, 0.0, 0, 0, 0])
    wrong, right = damage(torch.stack([barely_wrong, barely_right]), aim_at(label))
    assert classification.cross_entropy(barely_wrong[None], label[:1]) < classification.cross_entropy(
        barely_right[None], label[:1]
    )
    assert wrong >= 1 > right


def test_depth_harm_counts_depths_inside_the_range_only() -> None:
    space = LabelSpace(min_depth=1.0, max_depth=10.0)
    damage, label = load_task("depth", space).attack_losses.damage, torch.full((2, 2, 2), 4.0)
    depths = torch.stack([torch.full((2, 2), 1e6), torch.zeros(2, 2)])
    torch.testing.assert_close(damage(depths, LossContext(label, space)), torch.tensor([6.0, 3.0], dtype=torch.float64))


@pytest.mark.parametrize("ties", [False, True])
def test_correct_pixels_are_those_argmax_calls_correct(ties: bool) -> None:
    logits, target = maps(), maps(1).argmax(1)
    logits = logits.round() if ties else logits
    target[0, 0] = IGNORE
    expected = (logits.argmax(1) == target) & (target != IGNORE)
    assert torch.equal(segmentation.segmentation_pixels(logits, target, IGNORE).correct, expected.flatten(1))
    assert bool(((logits == logits.amax(1, keepdim=True)).sum(1) > 1).any()) is ties


NORMAL_LOSSES = [normal_losses.cosine, normal_losses.angular]


def test_losses_of_normals_at_known_angles() -> None:
    target = torch.tensor([0.0, 0, 1]).reshape(1, 3, 1, 1).expand(4, 3, 2, 2)
    output = torch.tensor([[0.0, 0, 5], [0, 2, 2], [0, 0, 0], [0, 0, -3]])[..., None, None].expand(4, 3, 2, 2)
    assert normal_losses.cosine(output, target).tolist() == pytest.approx([0, 1 - 0.5**0.5, 1, 2])
    assert normal_losses.angular(output, target).rad2deg().tolist() == pytest.approx([0, 45, 90, 180])


@pytest.mark.parametrize("loss", NORMAL_LOSSES)
def test_a_prediction_of_length_0_is_drawn_towards_its_label(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    output, target = torch.zeros(1, 3, 1, 1, requires_grad=True), torch.tensor([0.6, 0, 0.8]).reshape(1, 3, 1, 1)
    (gradient,) = torch.autograd.grad(loss(output, target).sum(), output)
    torch.testing.assert_close(gradient, -target)


@pytest.mark.parametrize("loss", NORMAL_LOSSES)
def test_pixels_without_a_normal_have_no_gradient(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    output, target = AWKWARD["normals"]["one label"]()
    (gradient,) = torch.autograd.grad(loss(output.requires_grad_(True), target).sum(), output)
    assert torch.equal((gradient != 0).any(1), (target != 0).any(1))


@pytest.mark.parametrize("length", [1e-6, 1e-3, 1e3])
@pytest.mark.parametrize("loss", NORMAL_LOSSES)
def test_losses_of_normals_do_not_change_with_the_length_of_the_prediction(
    loss: Callable[[Tensor, Tensor], Tensor], length: float
) -> None:
    output, target = unit_normals(1), unit_normals()
    torch.testing.assert_close(loss(length * output, target), loss(output, target))


@pytest.mark.parametrize("size", [(4, 6), (7, 5), (64, 64), (223, 225)])
@pytest.mark.parametrize("loss", NORMAL_LOSSES)
def test_losses_of_normals_of_a_lone_image_have_the_bits_they_have_in_a_batch(
    loss: Callable[[Tensor, Tensor], Tensor], size: tuple[int, int]
) -> None:
    output, target = unit_normals(0, size) + 0.5 * unit_normals(1, size), unit_normals(0, size)
    target[:, :, 0] = 0
    output.requires_grad_(True)
    together = loss(output, target)
    (gradient,) = torch.autograd.grad(together.sum(), output)
    for i in range(3):
        image = output[[i]].detach().requires_grad_(True)
        alone = loss(image, target[[i]])
        assert torch.equal(alone, together[[i]])
        assert torch.equal(torch.autograd.grad(alone.sum(), image)[0], gradient[[i]])


# Torch rounds some functions otherwise in the last elements of a tensor, as many as its length leaves over.
@pytest.mark.parametrize("items", [5, 7, 12, 37, 70])
@pytest.mark.parametrize("task", ["retrieval", "landmarks", "copies", "poisoning"])
def test_losses_of_searches_of_a_lone_image_have_the_bits_they_have_in_a_batch(task: str, items: int) -> None:
    generator = torch.Generator().manual_seed(0)
    output = (2 * torch.rand(5, items, generator=generator) - 1).requires_grad_()
    first = torch.arange(items).expand(5, -1) < 2
    target = {"landmarks": first.long(), "poisoning": torch.zeros(5)}.get(task, first)
    for name, loss in load_task(task, SPACE).attack_losses.losses.items():
        together = loss(output, LossContext(target, SPACE))
        (gradient,) = torch.autograd.grad(together.sum(), output)
        for i in range(5):
            image = output[[i]].detach().requires_grad_(True)
            alone = loss(image, LossContext(target[[i]], SPACE))
            assert torch.equal(alone, together[[i]]), name
            assert torch.equal(torch.autograd.grad(alone.sum(), image)[0], gradient[[i]]), name
