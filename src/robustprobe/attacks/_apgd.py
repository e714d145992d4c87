"""Auto-PGD: projected gradient ascent with momentum and adaptive step sizes."""

from typing import NamedTuple

import torch
from torch import Tensor

from robustprobe.attacks._search import Best, Entries, PerImageRandom, Search, SearchResult
from robustprobe.core.threat import Threat, over_image

FIRST_STEP = 2.0
FIRST_CHECK, SOONER, LEAST_CHECK = 0.22, 0.03, 0.06
RHO = 0.75
MOMENTUM = 0.75


class State(NamedTuple):
    """State of each entry, (n, ...): current, previous and best iterate, gradients, step size, progress."""

    current: Tensor
    old: Tensor
    gradient: Tensor
    best: Tensor
    best_gradient: Tensor
    best_step_loss: Tensor
    step_loss: Tensor
    size: Tensor
    ups: Tensor
    checked: Tensor
    halved: Tensor

    def part(self, index: Tensor) -> "State":
        return State(*(value[index] for value in self))


def apgd(
    search: Search, images: Tensor, entries: Entries, randomness: PerImageRandom, start: Tensor | None
) -> SearchResult:
    """Auto-PGD (Croce & Hein 2020, algorithm 1), with the constants of its authors.

    The first step size is 2 eps. At checkpoints, the first after 22 % of the steps and then at decreasing intervals,
    the step size of an entry is halved, and it restarts from its best iterate, if fewer than 75 % of the steps since
    the last checkpoint increased the loss, or if neither step size nor best value changed. Returns the visited iterate
    with most damage per entry.
    """
    begin = search.start(images, entries, randomness, stretched=True) if start is None else start
    best, index = Best(begin, search), torch.arange(len(images), device=images.device)
    judged, gradient = search.gradient(begin, entries, 0)
    best.visit(index, begin, judged, 0, gradient)
    state = _first(begin, judged.step_loss, gradient, search.threat.eps)
    interval, since = max(int(FIRST_CHECK * search.steps), 1), 0
    for step in range(1, search.steps + 1):
        if search.stop and judged.success.any():
            left = (~judged.success).nonzero()[:, 0]
            if not len(left):
                break
            index, images, entries, state = index[left], images[left], entries.part(left), state.part(left)
        state = _moved(search.threat, images, state, MOMENTUM if step > 1 else 1.0)
        if step == search.steps:
            with torch.no_grad():
                best.visit(index, state.current, search.judge(state.current, entries, step), step)
            break
        judged, gradient = search.gradient(state.current, entries, step)
        best.visit(index, state.current, judged, step, gradient)
        state, since = _noted(state, judged.step_loss, gradient), since + 1
        if since == interval:
            state = _checked(state, interval)
            interval, since = max(interval - max(int(SOONER * search.steps), 1), int(LEAST_CHECK * search.steps), 1), 0
    return best.outcome()


def _first(start: Tensor, step_loss: Tensor, gradient: Tensor, eps: float) -> State:
    size = torch.full_like(step_loss, FIRST_STEP * eps, dtype=start.dtype)
    none = torch.zeros_like(step_loss)
    return State(
        current=start,
        old=start,
        gradient=gradient,
        best=start,
        best_gradient=gradient,
        best_step_loss=step_loss,
        step_loss=step_loss,
        size=size,
        ups=none,
        checked=step_loss,
        halved=torch.ones_like(step_loss, dtype=torch.bool),
    )


def _moved(threat: Threat, images: Tensor, state: State, share: float) -> State:
    """A projected step with momentum."""
    step = threat.project(threat.ascend(state.current, state.gradient, over_image(state.size)), images)
    mixed = state.current + share * (step - state.current) + (1 - share) * (state.current - state.old)
    return state._replace(current=threat.project(mixed, images), old=state.current)


def _noted(state: State, step_loss: Tensor, gradient: Tensor) -> State:
    """The state updated with the loss and gradient of its new iterate."""
    better = step_loss > state.best_step_loss
    chosen = over_image(better)
    return state._replace(
        gradient=gradient,
        best=torch.where(chosen, state.current, state.best),
        best_gradient=torch.where(chosen, gradient, state.best_gradient),
        best_step_loss=torch.where(better, step_loss, state.best_step_loss),
        ups=state.ups + (step_loss > state.step_loss),
        step_loss=step_loss,
    )


def _checked(state: State, interval: int) -> State:
    """The state with step sizes halved and best iterates restored for entries without progress."""
    oscillates = state.ups <= RHO * interval
    stalled = ~state.halved & (state.checked >= state.best_step_loss)
    halve = oscillates | stalled
    chosen = over_image(halve)
    return state._replace(
        current=torch.where(chosen, state.best, state.current),
        gradient=torch.where(chosen, state.best_gradient, state.gradient),
        size=torch.where(halve, state.size / 2, state.size),
        ups=torch.zeros_like(state.ups),
        checked=state.best_step_loss,
        halved=halve,
    )
