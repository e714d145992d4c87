"""The smallest eps that breaks an image, against closed forms: of linear classifiers, segmenters and depth models."""

import pytest
import torch
from torch import Tensor

import robustprobe as rp
from robustprobe.attacks import PerImageRandom, Victim
from robustprobe.attacks.min_eps import LEVELS, MinEps, broken
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.errors import UserError
from robustprobe.core.types import LabelSpace
from robustprobe.tasks import load_task

pytestmark = pytest.mark.unit


def case() -> tuple[Tensor, Tensor, Tensor]:
    """Weights (2, P), grey images far from the ends of the box, and labels, some of them wrong from the start."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 48, generator=generator)
    images = 0.5 + 0.05 * torch.randn(24, 3, 4, 4, generator=generator)
    labels = (images.flatten(1) @ weights.T).argmax(1)
    labels[:4] = 1 - labels[:4]
    return weights, images.clamp(0.3, 0.7), labels


@pytest.mark.parametrize(("norm", "order"), [("linf", 1), ("l2", 2)])
def test_linear_classifier_breaks_where_its_margin_ends(norm: str, order: int) -> None:
    weights, images, labels = case()

    def model(x: Tensor) -> Tensor:
        return x.flatten(1) @ weights.T

    logits, difference = model(images), weights[0] - weights[1]
    margin = torch.where(labels == 0, 1, -1) * (logits[:, 0] - logits[:, 1])
    exact = (margin / torch.linalg.vector_norm(difference, order)).clamp(min=0)
    largest = float(exact.quantile(0.7))
    found = rp.minimal_eps(model, images, labels, eps=largest, norm=norm)  # type: ignore[arg-type]
    assert (found[:4] == 0).all()
    survives = exact > largest
    assert torch.equal(found.isinf(), survives)
    assert (found[~survives] >= exact[~survives] - 1e-6).all()
    assert (found[~survives] <= exact[~survives] + 1.001 * largest / LEVELS + 1e-6).all()
    assert 4 < survives.sum() < 10


def test_linear_classifier_breaks_under_l1_where_the_steepest_values_have_reached_the_box() -> None:
    weights, images, labels = case()
    logits, difference = images.flatten(1) @ weights.T, weights[0] - weights[1]
    side = torch.where(labels == 0, 1.0, -1.0)
    margin = (side * (logits[:, 0] - logits[:, 1])).clamp(min=0)
    slope = -side[:, None] * difference
    order = slope.abs().argsort(1, descending=True)
    room = torch.where(slope > 0, 1 - images.flatten(1), images.flatten(1)).gather(1, order)
    steepness = slope.abs().gather(1, order)
    gained = (room * steepness).cumsum(1)
    used = torch.where(gained < margin[:, None], room, 0).sum(1)
    last = (gained < margin[:, None]).sum(1, keepdim=True)
    gained_before = (gained - room * steepness).gather(1, last)[:, 0]
    exact = used + (margin - gained_before) / steepness.gather(1, last)[:, 0]
    largest = float(exact.quantile(0.7))
    found = rp.minimal_eps(lambda x: x.flatten(1) @ weights.T, images, labels, eps=largest, norm="l1")
    # A level, and what constant steps leave of the best image.
    survives, precision = found.isinf(), 2 * largest / LEVELS
    assert (exact[survives] > largest - precision).all()
    assert (exact[~survives] <= found[~survives] + 1e-5).all()
    assert (found[~survives] <= exact[~survives] + precision).all()
    assert 4 < survives.sum() < 10


def segmenter(images: Tensor) -> Tensor:
    """Logits (B, 2, H, W): class 1 where the red value is above 0.5, surer the farther from it."""
    return torch.stack([torch.full_like(images[:, 0], 0.5), images[:, 0]], 1) * 20


def red(values: list[float]) -> Tensor:
    """One image of 1 x 10 pixels whose red values these are."""
    return torch.tensor(values).reshape(1, 1, 1, 10).repeat(1, 3, 1, 1)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.9])
def test_a_segmented_image_breaks_where_enough_pixels_have_crossed(share: float) -> None:
    """All is class 1, and a pixel crosses at its distance from 0.5. With k of 10 wrong the mIoU is (1 - k / 10) / 2."""
    distances = [0.01 * (k + 1) for k in range(10)]
    images, labels = red([0.5 + d for d in distances]), torch.ones(1, 1, 10, dtype=torch.int64)
    found = rp.minimal_eps(segmenter, images, labels, eps=0.128, steps=30, task="segmentation", lost_share=share)
    by_hand = [(10 - k) / 20 if k else 1.0 for k in range(11)]
    needed = next(k for k, score in enumerate(by_hand) if score <= 1 - share)
    assert float(found) == pytest.approx(distances[needed - 1], abs=1.01 * 0.128 / LEVELS + 1e-5)


def depth_model(images: Tensor) -> Tensor:
    return 1 + images.mean(1)


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_a_depth_map_breaks_where_its_error_has_grown_by_the_share(share: float) -> None:
    """Every depth is wrong by a; moved by eps away from the truth it is wrong by a + eps."""
    error, images = 0.05, torch.full((2, 3, 4, 4), 0.5)
    labels = depth_model(images) - error
    labels[1] = 0
    found = rp.minimal_eps(depth_model, images, labels, eps=0.128, steps=20, task="depth", lost_share=share)
    assert float(found[0]) == pytest.approx(error / (1 - share) - error, abs=1.01 * 0.128 / LEVELS + 1e-5)
    # Without a valid depth nothing can be lost.
    assert found[1].isinf()


def test_an_image_without_a_score_to_lose_breaks_at_once_and_what_does_not_break_is_infinite() -> None:
    images = torch.cat([red([0.6] * 10), red([0.9] * 10)])
    labels = torch.ones(2, 1, 10, dtype=torch.int64)
    labels[0] = 0
    found = rp.minimal_eps(segmenter, images, labels, eps=0.05, steps=5, task="segmentation")
    assert found[0] == 0
    assert found[1].isinf()


def test_a_share_that_is_none_is_an_error() -> None:
    images, labels = red([0.6] * 10), torch.ones(1, 1, 10, dtype=torch.int64)
    for share in (0.0, 1.0, -0.5):
        with pytest.raises(UserError, match=r"lost_share is .*; expected a share above 0 and below 1"):
            rp.minimal_eps(segmenter, images, labels, task="segmentation", lost_share=share)
    with pytest.raises(UserError, match="apgd does not take lost_share"):
        rp.attack(segmenter, images, labels, attack="apgd", task="segmentation", lost_share=0.5)


def test_minimal_eps_does_not_depend_on_the_batch() -> None:
    weights, images, labels = case()
    weights, images = weights.double(), images.double()
    names = [str(i) for i in range(len(images))]

    def found(index: list[int]) -> Tensor:
        own = [names[i] for i in index]
        return rp.minimal_eps(lambda x: x.flatten(1) @ weights.T, images[index], labels[index], eps=0.125, ids=own)

    together = found(list(range(24)))
    assert torch.equal(torch.cat([found([i]) for i in (3, 7, 20)]), together[[3, 7, 20]])


@pytest.mark.parametrize("draws", [1, 2, 5])
def test_damage_says_broken_of_images_that_every_draw_broke_and_of_no_others(draws: int) -> None:
    """A model that answers at random: the mean damage of an image that one draw held is large too."""
    weights, images, labels = case()
    names, task = tuple(str(i) for i in range(len(images))), load_task("classification", LabelSpace(classes=("a", "b")))

    def model(x: Tensor) -> Tensor:
        return (x + 0.1 * torch.randn_like(x)).flatten(1) @ weights.T

    attack = MinEps(AttackSpec(name="min-eps", eps=0.02, steps=4, eot_samples=draws, lost_share=0.5))
    victim = Victim(model, labels, task.space, task.attack_losses, task.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = attack.perturb(victim, images, PerImageRandom(0, names, "min-eps"), None)
    assert 0 < int(found.success.sum()) < len(images)
    assert torch.equal(broken(found.damage), found.success)
