"""What Auto-PGD does in a step and at a checkpoint: its state, and the rules under Linf and L2."""

from abc import ABC, abstractmethod
from typing import NamedTuple, final

import torch
from torch import Tensor

from robustprobe.core.threat import Threat, over_image

FIRST_STEP = 2.0
FIRST_CHECK, SOONER, LEAST_CHECK = 0.22, 0.03, 0.06
RHO = 0.75
MOMENTUM = 0.75


class State(NamedTuple):
    """State of each entry, (n, ...): current, previous and best iterate, gradients, step size, progress.

    `noted` is what the last checkpoint noted; `share` is the share of pixel values that a step changes.
    """

    current: Tensor
    old: Tensor
    gradient: Tensor
    best: Tensor
    best_gradient: Tensor
    best_step_loss: Tensor
    step_loss: Tensor
    size: Tensor
    ups: Tensor
    noted: Tensor
    halved: Tensor
    share: Tensor

    def part(self, index: Tensor) -> "State":
        return State(*(value[index] for value in self))

    def updated(self, step_loss: Tensor, gradient: Tensor) -> "State":
        """The state with the loss and gradient of its new iterate."""
        better = step_loss > self.best_step_loss
        chosen = over_image(better)
        return self._replace(
            gradient=gradient,
            best=torch.where(chosen, self.current, self.best),
            best_gradient=torch.where(chosen, gradient, self.best_gradient),
            best_step_loss=torch.where(better, step_loss, self.best_step_loss),
            ups=self.ups + (step_loss > self.step_loss),
            step_loss=step_loss,
        )

    def restored(self, which: Tensor) -> "State":
        """The state that goes on from the best iterate in the entries `which`, (n,)."""
        chosen = over_image(which)
        return self._replace(
            current=torch.where(chosen, self.best, self.current),
            gradient=torch.where(chosen, self.best_gradient, self.gradient),
        )


class StepRule(ABC):
    """The rules of Auto-PGD in a norm. `images` are the clean images of the entries."""

    @abstractmethod
    def begun(self, state: State, images: Tensor, eps: float, drawn: bool) -> State:
        """The state before the first step, with its step size; `drawn`: from a random start."""

    @abstractmethod
    def moved(self, threat: Threat, images: Tensor, state: State, step: int) -> State:
        """A projected step; the first has number 1."""

    @abstractmethod
    def checked(self, threat: Threat, images: Tensor, state: State, interval: int) -> State:
        """The state after a checkpoint, `interval` steps after the last one."""

    @abstractmethod
    def interval(self, steps: int, last: int | None) -> int:
        """Steps to the next checkpoint, of `steps` in all; `last`: those between the two before, None at the start."""


@final
class Halving(StepRule):
    """Linf and L2 (Croce & Hein 2020, algorithm 1): momentum; at checkpoints step sizes are halved, or stay."""

    def begun(self, state: State, images: Tensor, eps: float, drawn: bool) -> State:
        return state._replace(size=torch.full_like(state.step_loss, FIRST_STEP * eps, dtype=images.dtype))

    def moved(self, threat: Threat, images: Tensor, state: State, step: int) -> State:
        share = MOMENTUM if step > 1 else 1.0
        moved = threat.project(threat.ascend(state.current, state.gradient, over_image(state.size)), images)
        mixed = state.current + share * (moved - state.current) + (1 - share) * (state.current - state.old)
        return state._replace(current=threat.project(mixed, images), old=state.current)

    def checked(self, threat: Threat, images: Tensor, state: State, interval: int) -> State:
        oscillates = state.ups <= RHO * interval
        stalled = ~state.halved & (state.noted >= state.best_step_loss)
        halve = oscillates | stalled
        return state.restored(halve)._replace(
            size=torch.where(halve, state.size / 2, state.size),
            ups=torch.zeros_like(state.ups),
            noted=state.best_step_loss,
            halved=halve,
        )

    def interval(self, steps: int, last: int | None) -> int:
        if last is None:
            return max(int(FIRST_CHECK * steps), 1)
        return max(last - max(int(SOONER * steps), 1), int(LEAST_CHECK * steps), 1)
