"""A small classifier that others can attack too: handwritten digits, lightly trained against an adversary."""

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

TEST_IMAGES = 500
SIDE = 12
EPOCHS = 12
TRAIN_EPS = 0.1


class Digits(NamedTuple):
    """A classifier in evaluation mode, and the images (500, 3, 12, 12) and labels (500,) it was not trained on."""

    model: nn.Module
    images: Tensor
    labels: Tensor


@cache
def digits() -> Digits:
    """Trained once a process, in about four seconds on one core. Copy the model before changing it."""
    images, labels = _all_digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _trained(images[TEST_IMAGES:], labels[TEST_IMAGES:])
    return Digits(model.eval().requires_grad_(False), images[:TEST_IMAGES], labels[:TEST_IMAGES])


def _all_digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    small = torch.tensor(data.images / 16, dtype=torch.float32)[order, None]
    images = F.interpolate(small, size=(SIDE, SIDE), mode="bilinear").expand(-1, 3, -1, -1)
    return (images * 255).round() / 255, torch.tensor(data.target)[order]


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 3 * 3, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def _trained(images: Tensor, labels: Tensor) -> nn.Module:
    model = _network()
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    for epoch in range(EPOCHS):
        eps = TRAIN_EPS * min(1, 2 * epoch / EPOCHS)
        for batch in torch.randperm(len(images)).split(64):
            moved = _moved(model, images[batch], labels[batch], eps)
            loss = F.cross_entropy(model(moved), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model


def _moved(model: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    moved = images
    for _ in range(2):
        moved = moved.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(moved), labels), moved)
        moved = (images + (moved + eps * gradient.sign() - images).clamp(-eps, eps)).clamp(0, 1).detach()
    return moved
