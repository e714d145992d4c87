"""Attacks against the libraries that papers use, on a classifier of digits trained with a little adversary.

Robust accuracy in per cent of 500 test images (clean 95.0), measured on one CPU core; Linf 0.14, L2 1.5, `-` not asked:

| attack, norm                              | ours | torchattacks | foolbox |  ART | pyautoattack |
|-------------------------------------------|-----:|-------------:|--------:|-----:|-------------:|
| PGD, 40 steps from the image, Linf        | 29.4 |         29.4 |    29.4 | 29.4 |            - |
| PGD, 40 steps from the image, L2          | 33.4 |         33.4 |    33.4 | 33.6 |            - |
| APGD on cross-entropy, 50 steps, Linf     | 29.0 |         28.6 |       - | 28.8 |            - |
| APGD on cross-entropy, 50 steps, L2       | 33.0 |         33.4 |       - | 33.2 |            - |
| APGD on targeted DLR, 9 goals x 20, Linf  | 24.6 |         24.8 |       - |    - |            - |
| Square, 1000 queries, Linf                | 36.2 |         36.4 |       - |    - |            - |
| Square, 400 queries, L2 2.0, 16 pixels    | 65.8 |         68.8 |       - |    - |            - |
| `ensemble` / standard AutoAttack, Linf       | 24.8 |            - |       - |    - |         24.4 |
| the same: passes there and back           | 120,918 |         - |       - |    - |    1,276,844 |

AutoAttack fools three images that `ensemble` does not, `ensemble` one that AutoAttack does not, for 9.5 % of the
passes.
Another processor trains a slightly different classifier, so tests compare what they find there and pin no number.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import foolbox
import pytest
import torch
import torchattacks
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    ProjectedGradientDescentPyTorch,
)
from art.estimators.classification import PyTorchClassifier
from pyautoattack import AutoAttack
from pyautoattack.autopgd_base import APGDAttack, L1_projection
from torch import Tensor, nn

import robustprobe as rp
from robustprobe.attacks._square import _side
from robustprobe.core.threat import L1, NORMS, Linf, image_generator
from tests.digits import TEST_IMAGES, Digits, digits

pytestmark = pytest.mark.golden

Norm = Literal["linf", "l2"]

EPS: dict[Norm, float] = {"linf": 0.14, "l2": 1.5}
STEPS = 40
APGD_STEPS = 50
# One point of robust accuracy, in images.
POINT = TEST_IMAGES // 100


@pytest.fixture(scope="module")
def case() -> Digits:
    return digits()


def robust(case: Digits, attack: str, norm: Norm, **options: Any) -> Tensor:
    """Which images keep their label under our attack, (500,)."""
    given = {"eps": EPS[norm], "norm": norm, "task": "classification", **options}
    found = rp.attack(case.model, case.images, case.labels, attack=attack, **given)
    return found.score.bool()


def keeps(case: Digits, adversarial: Tensor) -> Tensor:
    """Which images keep their label, whoever made them, (500,)."""
    with torch.no_grad():
        logits: Tensor = case.model(adversarial)
    return logits.argmax(1) == case.labels


def inside(case: Digits, adversarial: Tensor, norm: Norm) -> bool:
    size = NORMS[norm](EPS[norm]).size(adversarial - case.images)
    return bool((size <= EPS[norm] * (1 + 1e-5)).all() and adversarial.min() >= 0 and adversarial.max() <= 1)


def art_classifier(case: Digits) -> Any:
    shape = tuple(case.images.shape[1:])
    return PyTorchClassifier(case.model, nn.CrossEntropyLoss(), shape, 10, clip_values=(0, 1), device_type="cpu")


def art_run(attack: Any, case: Digits) -> Tensor:
    one_hot = nn.functional.one_hot(case.labels, 10)
    return torch.from_numpy(attack.generate(case.images.numpy(), one_hot.numpy()))


def art_norm(norm: Norm) -> float:
    return math.inf if norm == "linf" else 2


@pytest.mark.parametrize("norm", EPS)
def test_classifier_leaves_room_for_attacks_to_differ(case: Digits, norm: Norm) -> None:
    assert keeps(case, case.images).float().mean() > 0.9
    assert 0.15 < robust(case, "apgd", norm, steps=APGD_STEPS).float().mean() < 0.6


def our_pgd(case: Digits, norm: Norm, **options: Any) -> Tensor:
    return rp.attack(
        case.model,
        case.images,
        case.labels,
        attack="pgd",
        eps=EPS[norm],
        norm=norm,
        steps=STEPS,
        step_size=EPS[norm] / 10,
        iterate="last",
        task="classification",
        **options,
    ).adversarial


def exactly_averaged(case: Digits) -> Digits:
    """256 images: they average the loss, we sum it, and only a power of two scales gradients without rounding."""
    return case._replace(images=case.images[:256], labels=case.labels[:256])


def test_pgd_from_the_image_equals_torchattacks_bit_for_bit(case: Digits) -> None:
    eps, case = EPS["linf"], exactly_averaged(case)
    theirs = torchattacks.PGD(case.model, eps=eps, alpha=eps / 10, steps=STEPS, random_start=False)
    assert torch.equal(our_pgd(case, "linf", random_start=False), theirs(case.images, case.labels))


def test_pgd_from_a_random_start_equals_torchattacks_from_the_same(
    case: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    # They add the noise, we also project the sum: on binary fractions neither rounds, so the starts are the same.
    case = exactly_averaged(case)
    case = case._replace(images=(case.images * 2**8).round() / 2**8)
    eps = EPS["linf"]
    drawn = Linf.noise

    def noise(threat: Linf, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return (drawn(threat, images, generators) * 2**16).trunc() / 2**16

    monkeypatch.setattr(Linf, "noise", noise)
    ours = our_pgd(case, "linf", seed=7)
    assert not torch.equal(ours, our_pgd(case, "linf", random_start=False))
    randomness = [image_generator(7, str(i), "pgd/", 0) for i in range(len(case.images))]
    same = noise(Linf(eps), case.images, randomness)
    monkeypatch.setattr(Tensor, "uniform_", lambda self, low, high: same)
    theirs = torchattacks.PGD(case.model, eps=eps, alpha=eps / 10, steps=STEPS)(case.images, case.labels)
    assert torch.equal(ours, theirs)


def torchattacks_pgd(case: Digits, norm: Norm) -> Tensor:
    kind = torchattacks.PGD if norm == "linf" else torchattacks.PGDL2
    theirs: Tensor = kind(case.model, eps=EPS[norm], alpha=EPS[norm] / 10, steps=STEPS, random_start=False)(
        case.images, case.labels
    )
    return theirs


def foolbox_pgd(case: Digits, norm: Norm) -> Tensor:
    kind = foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD
    attack = kind(abs_stepsize=EPS[norm] / 10, steps=STEPS, random_start=False)
    _, theirs, _ = attack(foolbox.PyTorchModel(case.model, (0, 1)), case.images, case.labels, epsilons=EPS[norm])
    assert isinstance(theirs, Tensor)
    return theirs


def art_pgd(case: Digits, norm: Norm) -> Tensor:
    attack = ProjectedGradientDescentPyTorch(
        art_classifier(case),
        norm=art_norm(norm),
        eps=EPS[norm],
        eps_step=EPS[norm] / 10,
        max_iter=STEPS,
        batch_size=TEST_IMAGES,
        verbose=False,
    )
    return art_run(attack, case)


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("library", [torchattacks_pgd, foolbox_pgd, art_pgd])
def test_pgd_fools_the_images_that_libraries_fool_but_for_one_in_a_hundred(
    case: Digits, library: Callable[[Digits, Norm], Tensor], norm: Norm
) -> None:
    ours, theirs = our_pgd(case, norm, random_start=False), library(case, norm)
    assert inside(case, ours, norm)
    assert int((keeps(case, ours) != keeps(case, theirs)).sum()) <= POINT


def torchattacks_apgd(case: Digits, norm: Norm) -> Tensor:
    kind = "Linf" if norm == "linf" else "L2"
    attack = torchattacks.APGD(case.model, norm=kind, eps=EPS[norm], steps=APGD_STEPS, loss="ce")
    with torch.random.fork_rng(devices=[]):
        theirs: Tensor = attack(case.images, case.labels)
    return theirs


def art_apgd(case: Digits, norm: Norm) -> Tensor:
    attack = AutoProjectedGradientDescent(
        art_classifier(case),
        norm=art_norm(norm),
        eps=EPS[norm],
        eps_step=2 * EPS[norm],
        max_iter=APGD_STEPS,
        nb_random_init=1,
        batch_size=TEST_IMAGES,
        loss_type="cross_entropy",
        verbose=False,
    )
    return art_run(attack, case)


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("library", [torchattacks_apgd, art_apgd])
def test_apgd_fools_no_fewer_images_than_libraries_but_for_one_in_a_hundred(
    case: Digits, library: Callable[[Digits, Norm], Tensor], norm: Norm
) -> None:
    ours, theirs = robust(case, "apgd", norm, steps=APGD_STEPS), keeps(case, library(case, norm))
    assert int(ours.sum()) <= int(theirs.sum()) + POINT
    # Starts differ, so single images may go either way.
    assert int((ours & ~theirs).sum()) <= 2 * POINT


def test_l1_projection_is_that_of_its_authors() -> None:
    generator = torch.Generator().manual_seed(0)
    images, moves = torch.rand(20, 3, 8, 8, generator=generator), torch.randn(20, 3, 8, 8, generator=generator)
    for eps in (0.5, 5.0, 50.0):
        theirs = images + moves + L1_projection(images, moves, eps)
        torch.testing.assert_close(L1(eps).project(images + moves, images), theirs, rtol=0, atol=3e-5)


@pytest.mark.parametrize("eps", [4.0, 8.0, 12.0])
def test_l1_apgd_fools_no_fewer_images_than_its_authors_program_but_for_one_in_a_hundred(
    case: Digits, eps: float
) -> None:
    """Ours and theirs left 316 and 315, 141 and 145, 34 and 38 of 500 images."""
    with torch.random.fork_rng(devices=[]):
        attack = APGDAttack(
            case.model, n_iter=APGD_STEPS, norm="L1", n_restarts=1, eps=eps, use_largereps=True, device="cpu"
        )
        theirs = keeps(case, attack.perturb(case.images, case.labels))
    found = rp.attack(
        case.model, case.images, case.labels, attack="apgd", norm="l1", eps=eps, steps=APGD_STEPS, task="classification"
    )
    ours = found.score.bool()
    assert int(ours.sum()) <= int(theirs.sum()) + POINT
    # Starts differ, so single images may go either way.
    assert int((ours & ~theirs).sum()) <= 2 * POINT
    assert (L1(eps).size(found.adversarial - case.images) <= eps).all()


def test_targeted_apgd_fools_no_fewer_images_than_torchattacks_with_as_many_goals(case: Digits) -> None:
    steps = 20
    ours = robust(case, "apgd:targeted-dlr", "linf", steps=steps, restarts=9, early_exit=True)
    attack = torchattacks.APGDT(case.model, norm="Linf", eps=EPS["linf"], steps=steps, n_classes=10)
    with torch.random.fork_rng(devices=[]):
        theirs = keeps(case, attack(case.images, case.labels))
    assert int(ours.sum()) <= int(theirs.sum()) + POINT
    assert int((ours & ~theirs).sum()) <= 2 * POINT


def larger(case: Digits) -> Digits:
    """The same images at 16 pixels a side, which the model reads at 12: there Square of torchattacks fails under L2."""
    images = nn.functional.interpolate(case.images, size=(16, 16), mode="bilinear")
    return case._replace(model=nn.Sequential(nn.Upsample((12, 12), mode="bilinear"), case.model), images=images)


# Their squares are the same for all images, so that luck does not average out: over seeds theirs spread over three
# points at 1000 queries, ours over one.
@pytest.mark.parametrize(("norm", "eps", "queries"), [("linf", EPS["linf"], 1000), ("l2", 16 / 12 * EPS["l2"], 400)])
def test_square_fools_no_fewer_images_than_torchattacks_with_as_many_queries_but_for_three_in_a_hundred(
    case: Digits, norm: Norm, eps: float, queries: int
) -> None:
    case = larger(case) if norm == "l2" else case
    ours = robust(case, "square", norm, eps=eps, steps=queries, early_exit=True)
    kind = "Linf" if norm == "linf" else "L2"
    attack = torchattacks.Square(case.model, norm=kind, eps=eps, n_queries=queries)
    attack.set_device(torch.device("cpu"))
    with torch.random.fork_rng(devices=[]):
        theirs = keeps(case, attack(case.images, case.labels))
    assert int(ours.sum()) <= int(theirs.sum()) + 3 * POINT
    # Nor is it stronger than gradients allow.
    assert int(ours.sum()) >= int(robust(case, "apgd", norm, eps=eps, steps=APGD_STEPS).sum())


@pytest.mark.parametrize("queries", [1000, 5000])
def test_squares_shrink_as_those_of_torchattacks(queries: int) -> None:
    theirs, images = torchattacks.Square(nn.Identity(), n_queries=queries), torch.zeros(1, 3, 32, 32)
    expected = [max(round((theirs.p_selection(i) * 32 * 32) ** 0.5), 1) for i in range(queries)]
    assert [_side(i + 1, queries, images) for i in range(queries)] == expected


class Counted(nn.Module):
    """A model that counts images passed forward, and those that a gradient is asked of."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.passes = model, 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += len(images) * (2 if images.requires_grad and torch.is_grad_enabled() else 1)
        logits: Tensor = self.model(images)
        return logits


class Duel(NamedTuple):
    """Which images survive `ensemble` and AutoAttack, and the passes each took."""

    ours: Tensor
    theirs: Tensor
    our_passes: int
    their_passes: int


@pytest.fixture(scope="module")
def duel(case: Digits) -> Duel:
    ours, theirs = Counted(case.model), Counted(case.model)
    kept = robust(case._replace(model=ours), "ensemble", "linf")
    with torch.random.fork_rng(devices=[]):
        standard = AutoAttack(theirs, norm="Linf", eps=EPS["linf"], seed=0, version="standard")
        found, _ = standard.run_standard_evaluation(case.images, case.labels, batch_size=TEST_IMAGES)
    assert inside(case, found, "linf")
    return Duel(kept, keeps(case, found), ours.passes, theirs.passes)


def test_worst_is_within_a_point_of_autoattack(duel: Duel) -> None:
    assert abs(int(duel.ours.sum()) - int(duel.theirs.sum())) <= POINT


def test_worst_takes_a_tenth_of_the_passes_of_autoattack(duel: Duel) -> None:
    assert duel.our_passes <= duel.their_passes / 10


@pytest.mark.parametrize("norm", EPS)
def test_what_more_steps_of_pgd_fool_contains_what_fewer_fool(case: Digits, norm: Norm) -> None:
    """The same start and step size: the shorter run is the beginning of the longer one."""
    short, middle, long = (robust(case, "pgd", norm, steps=n, step_size=EPS[norm] / 10) for n in (3, 10, 30))
    assert not (middle & ~short).any()
    assert not (long & ~middle).any()
    assert long.sum() < short.sum()


@pytest.mark.parametrize("attack", ["pgd", "apgd", "square"])
def test_what_more_restarts_fool_contains_what_fewer_fool(case: Digits, attack: str) -> None:
    once, often = (robust(case, attack, "linf", steps=8, restarts=n) for n in (1, 3))
    assert not (often & ~once).any()
    assert often.sum() < once.sum()


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("attack", ["pgd", "apgd", "square"])
def test_robust_accuracy_falls_with_eps(case: Digits, attack: str, norm: Norm) -> None:
    kept = [int(robust(case, attack, norm, steps=10, eps=EPS[norm] * f).sum()) for f in (0, 0.3, 1, 2)]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > kept[-1]


def test_more_steps_of_apgd_do_not_raise_robust_accuracy(case: Digits) -> None:
    """Its steps shrink sooner or later with their number, so single images may go either way: half a point."""
    kept = [int(robust(case, "apgd", "linf", steps=n).sum()) for n in (5, 20, 80)]
    assert all(b <= a + POINT // 2 for a, b in pairwise(kept))
    assert kept[-1] < kept[0]
