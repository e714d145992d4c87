"""Auto-PGD: projected gradient ascent with adaptive step sizes."""

import torch
from torch import Tensor

from robustprobe.attacks._apgd_sparse import AdaptiveSparsity
from robustprobe.attacks._apgd_steps import Halving, State, StepRule
from robustprobe.attacks._search import Best, Entries, PerImageRandom, Search, SearchResult
from robustprobe.core.threat import L1


def apgd(
    search: Search, images: Tensor, entries: Entries, randomness: PerImageRandom, start: Tensor | None
) -> SearchResult:
    """Auto-PGD in one ball (Croce & Hein 2020, algorithm 1; under L1 2021), with the constants of its authors.

    Under Linf and L2 the first step size is 2 eps. At checkpoints, the first after 22 % of the steps and then at
    decreasing intervals, the step size of an entry is halved, and it restarts from its best iterate, if fewer than 75 %
    of the steps since the last checkpoint increased the loss, or if neither step size nor best value changed. Under L1:
    see `AdaptiveSparsity`. Returns the visited iterate with most damage per entry.
    """
    threat = search.threat
    rule: StepRule = AdaptiveSparsity() if isinstance(threat, L1) else Halving()
    begin = search.start(images, entries, randomness, stretched=True) if start is None else start
    best, index = Best(begin, search), torch.arange(len(images), device=images.device)
    judged, gradient = search.gradient(begin, entries, 0)
    best.visit(index, begin, judged, 0, gradient)
    state = rule.begun(_first(begin, judged.step_loss, gradient), images, threat.eps, start is None)
    interval, since = rule.interval(search.steps, None), 0
    for step in range(1, search.steps + 1):
        if search.stop and judged.success.any():
            left = (~judged.success).nonzero()[:, 0]
            if not len(left):
                break
            index, images, entries, state = index[left], images[left], entries.part(left), state.part(left)
        state = rule.moved(threat, images, state, step)
        if step == search.steps:
            with torch.no_grad():
                best.visit(index, state.current, search.judge(state.current, entries, step), step)
            break
        judged, gradient = search.gradient(state.current, entries, step)
        best.visit(index, state.current, judged, step, gradient)
        state, since = state.updated(judged.step_loss, gradient), since + 1
        if since == interval:
            state = rule.checked(threat, images, state, interval)
            interval, since = rule.interval(search.steps, interval), 0
    return best.outcome()


def _first(start: Tensor, step_loss: Tensor, gradient: Tensor) -> State:
    none = torch.zeros_like(step_loss)
    return State(
        current=start,
        old=start,
        gradient=gradient,
        best=start,
        best_gradient=gradient,
        best_step_loss=step_loss,
        step_loss=step_loss,
        size=none,
        ups=none,
        noted=step_loss,
        halved=torch.ones_like(step_loss, dtype=torch.bool),
        share=torch.ones_like(none),
    )
