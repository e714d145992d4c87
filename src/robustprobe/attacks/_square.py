"""Square attack: random search with squares, a black-box attack that uses outputs only."""

from typing import NamedTuple

import torch
from torch import Tensor

from robustprobe.attacks._search import Best, Entries, PerImageRandom, Search, SearchResult
from robustprobe.core.sums import image_sums
from robustprobe.core.threat import L1, L2, over_image

FIRST_SHARE = 0.8
HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


class Moves(NamedTuple):
    """All random choices of an entry, drawn beforehand: corners of two squares per step, as shares of the image
    (n, steps, 4), the signs of the first, (n, steps, 3), and the stripes of the start.
    """

    corners: Tensor
    signs: Tensor
    stripes: Tensor


def square(
    search: Search, images: Tensor, entries: Entries, randomness: PerImageRandom, start: Tensor | None
) -> SearchResult:
    """Square attack (Andriushchenko et al. 2020), with the schedule of its authors; `steps` is the number of queries.

    Starts from vertical stripes. Linf tries squares of +-eps with one sign per channel. L2 tries a bump in a
    square; its squared norm is the sum of those of the perturbation in this square and in a second one, which is set to
    zero, and of the unused part of eps squared. L1 does the same with norms that are not squared (Croce & Hein 2021).
    """
    moves = _moves(images, search.steps, randomness.generators(entries))
    begin = _stripes(search, images, moves) if start is None else start
    best, index = Best(begin, search), torch.arange(len(images), device=images.device)
    with torch.no_grad():
        judged = search.judge(begin, entries, 0)
        best.visit(index, begin, judged, 0)
        current, loss = begin, judged.loss
        for step in range(1, search.steps + 1):
            if search.stop and judged.success.any():
                left = (~judged.success).nonzero()[:, 0]
                if not len(left):
                    break
                index, images, entries, moves = index[left], images[left], entries.part(left), _part(moves, left)
                current, loss = current[left], loss[left]
            tried = _tried(search, images, current, moves, step)
            judged = search.judge(tried, entries, step)
            best.visit(index, tried, judged, step)
            better = judged.loss > loss
            current = torch.where(over_image(better), tried, current)
            loss = torch.where(better, judged.loss, loss)
    return best.outcome()


def _moves(images: Tensor, steps: int, generators: list[torch.Generator]) -> Moves:
    channels, _, width = images.shape[1:]
    corners = torch.stack([torch.rand(steps, 4, generator=g, dtype=torch.float32) for g in generators]).to(
        images.device
    )
    signs = [torch.randint(0, 2, (steps, channels), generator=g) for g in generators]
    stripes = [torch.randint(0, 2, (channels, 1, width), generator=g) for g in generators]
    return Moves(
        corners,
        torch.stack(signs).to(images) * 2 - 1,
        torch.stack(stripes).to(images) * 2 - 1,
    )


def _part(moves: Moves, index: Tensor) -> Moves:
    return Moves(*(value[index] for value in moves))


def _stripes(search: Search, images: Tensor, moves: Moves) -> Tensor:
    return search.threat.project(images + search.threat.stretch(moves.stripes.expand_as(images)), images)


def _side(step: int, steps: int, images: Tensor) -> int:
    """Side of the square in pixels: its share of the area is halved by the authors' schedule for 10,000 queries."""
    height, width = images.shape[-2:]
    share = FIRST_SHARE / 2 ** sum((step - 1) / steps > mark for mark in HALVINGS)
    return int(max(1, min(round((share * height * width) ** 0.5), height - 1, width - 1)))


def _tried(search: Search, images: Tensor, current: Tensor, moves: Moves, step: int) -> Tensor:
    """The current images with one more square in each."""
    side = _side(step, search.steps, images)
    corners, signs = moves.corners[:, step - 1], moves.signs[:, step - 1, :, None, None]
    inside = _inside(images, corners[:, :2], side)
    if not isinstance(search.threat, L2 | L1):
        return search.threat.project(torch.where(inside, images + search.threat.eps * signs, current), images)
    return _bumped(search, images, current, inside, _inside(images, corners[:, 2:], side) & ~inside, signs)


def _inside(images: Tensor, corner: Tensor, side: int) -> Tensor:
    """Mask of the square, (n, 1, H, W)."""
    height, width = images.shape[-2:]
    top, left = ((corner[:, i] * (length - side + 1)).long() for i, length in enumerate((height, width)))
    rows, columns = (torch.arange(length, device=images.device) for length in (height, width))
    tall = (rows >= top[:, None]) & (rows < top[:, None] + side)
    wide = (columns >= left[:, None]) & (columns < left[:, None] + side)
    return (tall[:, :, None] & wide[:, None, :])[:, None]


def _bumped(search: Search, images: Tensor, current: Tensor, inside: Tensor, emptied: Tensor, signs: Tensor) -> Tensor:
    delta, power = current - images, 2 if isinstance(search.threat, L2) else 1
    here, there = torch.where(inside, delta, 0), torch.where(emptied, delta, 0)
    left = (search.threat.eps**power - _energy(delta, power)).clamp(min=0)
    budget = (_energy(here, power) + _energy(there, power) + left) ** (1 / power)
    rows, columns = (_distance(inside.amax(axis).float()) for axis in (3, 2))
    bump = torch.where(inside, signs / (1 + torch.maximum(rows[:, :, :, None], columns[:, :, None, :])), 0)
    bump = _unit(_unit(bump, power) + _unit(here, power), power) * over_image(budget)
    return search.threat.project(images + torch.where(inside, bump, torch.where(emptied, 0, delta)), images)


def _energy(values: Tensor, power: int) -> Tensor:
    return image_sums(values.abs() ** power)


def _unit(values: Tensor, power: int) -> Tensor:
    return values / over_image((_energy(values, power) ** (1 / power)).clamp(min=1e-12))


def _distance(marked: Tensor) -> Tensor:
    """Distance (n, 1, L) of each index from the middle of the marked interval."""
    positions = torch.arange(marked.shape[-1], device=marked.device, dtype=marked.dtype)
    middle = (marked * positions).sum(-1, keepdim=True) / marked.sum(-1, keepdim=True)
    return (positions - middle).abs()
