"""The usual eps of each norm, and warnings about one that is far from it."""

from pathlib import Path

import pytest
import torch

import robustprobe as rp
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.eps import USUAL, default_eps, implausible_eps
from robustprobe.core.sizes import Norm
from robustprobe.core.spec import Suite
from robustprobe.core.spec_base import validated
from robustprobe.core.threat import NORMS
from robustprobe.evaluation.cells import Plan
from robustprobe.evaluation.plan import make_plan
from robustprobe.results.store import Store

pytestmark = pytest.mark.unit


def test_every_norm_has_a_usual_eps() -> None:
    assert set(USUAL) == set(NORMS)


@pytest.mark.parametrize(
    ("norm", "size", "eps"),
    [
        ("linf", (32, 32), 8 / 255),
        ("linf", (518, 518), 8 / 255),
        ("l2", (32, 32), 0.5),
        ("l2", (224, 224), 3.5),
        ("l2", (16, 64), 0.5),
        ("l2", (320, 448), 5.92),
        ("l1", (32, 32), 12),
        ("l1", (224, 224), 588),
        ("l1", (16, 64), 12),
    ],
)
def test_the_usual_eps_follows_the_size_of_the_image(norm: Norm, size: tuple[int, int], eps: float) -> None:
    assert default_eps(norm, size) == pytest.approx(eps)


@pytest.mark.parametrize("norm", NORMS)
def test_the_mean_change_of_a_pixel_is_the_same_at_every_size(norm: Norm) -> None:
    """A perturbation and its like on an image of twice the side fill the same share of the usual ball."""
    small = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).sign()
    shares = [
        float(NORMS[norm](1.0).size(images)) / default_eps(norm, (images.shape[2], images.shape[3]))
        for images in (small, small.repeat(1, 1, 2, 2))
    ]
    assert shares[0] == pytest.approx(shares[1], rel=1e-2)


@pytest.mark.parametrize(
    ("norm", "eps", "size", "words"),
    [
        ("l2", 8 / 255, (32, 32), "too small to matter; usual at 32 x 32 pixels is 0.5"),
        ("l2", 0.3, (224, 224), "too small to matter; usual at 224 x 224 pixels is 3.5"),
        ("l2", 0.5, (224, 224), ""),
        ("l2", 36 / 255, (32, 32), ""),
        ("l2", 128, (64, 64), "turn any image grey"),
        ("l1", 1.1, (32, 32), "too small to matter; usual at 32 x 32 pixels is 12"),
        ("l1", 255, (224, 224), ""),
        ("l1", 1536, (32, 32), "turn any image grey"),
        ("l1", 1535, (32, 32), ""),
        ("linf", 0.5 / 255, (32, 32), "too small to matter; usual at 32 x 32 pixels is 8/255"),
        ("linf", 1 / 255, (32, 32), ""),
        ("linf", 64 / 255, (32, 32), ""),
        ("linf", 0.5, (32, 32), "turn any image grey"),
        ("linf", 0.0, (32, 32), ""),
    ],
)
def test_an_implausible_eps_is_named(norm: Norm, eps: float, size: tuple[int, int], words: str) -> None:
    said = implausible_eps(AttackSpec(name="pgd", eps=eps, norm=norm), size)
    assert words in said
    assert bool(said) == bool(words)


@pytest.mark.parametrize("norm", NORMS)
def test_no_usual_eps_is_implausible(norm: Norm) -> None:
    for side in (16, 32, 224, 1024):
        eps = default_eps(norm, (side, side))
        assert implausible_eps(AttackSpec(name="pgd", eps=eps, norm=norm), (side, side)) == ""


def test_a_plan_takes_the_usual_eps_of_each_dataset_and_says_what_is_implausible(tmp_path: Path) -> None:
    described = {
        "encoders": ["bundled:scenes"],
        "datasets": [{"name": "scenes", "limit": 2}, {"name": "scenes", "limit": 2, "size": (32, 32)}],
        "tasks": ["classification"],
        "attacks": ["clean", "pgd"],
        "norm": "l2",
    }

    def planned(**other: object) -> Plan:
        suite = validated(Suite, {**described, **other}, "it")
        return make_plan(suite, Store(tmp_path), tmp_path, torch.device("cpu"))

    usual = planned()
    assert [job.levels[0].attack.eps for pair in usual.pairs for job in pair.jobs] == [0.0, 1.0, 0.0, 0.5]
    assert usual.warnings == []
    small = planned(eps=["8/255", 0])
    assert small.warnings == [
        "eps 0 leaves the images as they are",
        "scenes: l2 eps 0.0313725 is too small to matter; usual at 64 x 64 pixels is 1",
        "scenes: l2 eps 0.0313725 is too small to matter; usual at 32 x 32 pixels is 0.5",
    ]


def test_from_python_the_eps_follows_norm_and_image() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 2)).eval()
    images, labels = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    for norm, eps in (("linf", 8 / 255), ("l2", 0.125)):
        found = rp.attack(model, images, labels, task="classification", attack="pgd", norm=norm, steps=3)  # type: ignore[arg-type]
        moved = NORMS[norm](1.0).size(found.adversarial - images)
        assert (moved <= eps * (1 + 1e-5)).all()
        assert moved.max() > 0.5 * eps
