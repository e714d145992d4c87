"""Surrogate heads: their labels, their cache, and the attack against them."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import robustprobe as rp
from robustprobe import UserError
from robustprobe.encoders import Encoder
from robustprobe.probing import surrogate_heads
from robustprobe.probing.surrogate_heads import (
    SURROGATE_TASKS,
    SurrogateTask,
    fit_surrogate_heads,
    kmeans,
    surrogate_labels,
)

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")


@pytest.fixture
def few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surrogate_heads, "SCENES", 16)


def test_places_are_labelled_from_top_to_bottom_and_from_left_to_right() -> None:
    images = torch.rand(2, 3, 16, 24)
    rows = surrogate_labels(SurrogateTask("rows", 2), images)
    assert rows.shape == (2, 4, 6)
    assert rows[0, :, 0].tolist() == [0, 0, 1, 1]
    assert torch.equal(rows[0, 0], torch.zeros(6, dtype=torch.int64))
    grid = surrogate_labels(SurrogateTask("grid", 4), images)
    assert grid[1].tolist() == [[0, 0, 0, 1, 1, 1]] * 2 + [[2, 2, 2, 3, 3, 3]] * 2


def test_colours_that_differ_more_than_places_make_the_clusters() -> None:
    images = torch.zeros(1, 3, 32, 32)
    images[:, :, :, 16:] = 1
    labels = surrogate_labels(SurrogateTask("mixed", 2), images)[0]
    assert labels[:, :4].unique().numel() == labels[:, 4:].unique().numel() == 1
    assert labels[0, 0] != labels[0, 7]


def test_kmeans_finds_clusters_that_are_far_apart() -> None:
    noise = torch.randn(90, 2, generator=torch.Generator().manual_seed(0)) * 0.01
    centres = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    points = centres.repeat(30, 1) + noise
    # Lloyd's algorithm may stop at a poor choice of starting points: one of five is good.
    apart = [torch.cdist(centres, kmeans(points, 3, seed)).amin(1).amax() for seed in range(5)]
    assert min(apart) < 0.05


def test_heads_are_fitted_once_for_an_encoder_and_a_size(
    tiny_encoder: Encoder, few_scenes: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ROBUSTPROBE_CACHE", str(tmp_path))
    first = fit_surrogate_heads(tiny_encoder, (16, 16), CPU)
    assert len(first) == len(SURROGATE_TASKS) == len(list(tmp_path.glob("heads/*.safetensors")))
    monkeypatch.setattr(surrogate_heads, "_scenes", None)  # would fail if asked
    again = fit_surrogate_heads(tiny_encoder, (16, 16), CPU)
    features = tiny_encoder(torch.rand(2, 3, 16, 16))
    for a, b, layout in zip(first, again, SURROGATE_TASKS, strict=True):
        assert torch.equal(a(features, (4, 4)), b(features, (4, 4)))
        assert a(features, (4, 4)).shape == (2, layout.classes, 4, 4)
        assert not any(p.requires_grad for p in a.parameters())


def test_scenes_of_another_size_are_antialiased(few_scenes: None) -> None:
    whole = torch.stack([s.image for s in rp.load_dataset("scenes", split="train", limit=16)])
    expected = F.interpolate(whole, size=(16, 24), mode="bilinear", antialias=True).clamp(0, 1)
    assert torch.equal(surrogate_heads._scenes((16, 24)), expected)


def test_layout_fools_its_heads_more_than_noise_does(tiny_encoder: Encoder, few_scenes: None) -> None:
    images = torch.stack([s.image for s in rp.load_dataset("scenes", limit=6, size=(16, 16))])
    heads = fit_surrogate_heads(tiny_encoder, (16, 16), CPU)

    def changed(moved: torch.Tensor) -> float:
        pairs = [(head(tiny_encoder(x), (4, 4)).argmax(1) for x in (images, moved)) for head in heads]
        return sum(float((a != b).double().mean()) for a, b in pairs)

    noisy, attacked = (rp.attack(tiny_encoder, images, attack=name).adversarial for name in ("noise", "surrogate"))
    assert changed(attacked) > 2 * changed(noisy) + 0.1


def test_layout_needs_an_encoder() -> None:
    with pytest.raises(UserError, match="surrogate needs an encoder to fit its own heads on"):
        rp.attack(lambda x: x.mean((2, 3)), torch.rand(2, 3, 8, 8), attack="surrogate")
    with pytest.raises(UserError, match="surrogate has its own objective; leave :l2 out"):
        rp.attack(lambda x: x.mean((2, 3)), torch.rand(2, 3, 8, 8), attack="surrogate:l2")
