"""Losses of a task as objectives of attacks."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from robustprobe.attacks._search import Entries, LossValues, Objective
from robustprobe.attacks.base import Victim
from robustprobe.core.errors import unknown_name
from robustprobe.core.sums import mean_of
from robustprobe.core.types import AttackLosses, LossContext

Broken = Callable[[Tensor, LossContext, Tensor], Tensor]
"""Which images an attack has succeeded on, (n,), of outputs, their `LossContext` and the rows of their images."""


def default_objective(victim: Victim, name: str, images: Tensor) -> Objective:
    """The loss `name` of the victim's task, or the task's default loss if it is empty."""
    return task_objective(victim, name or cast(AttackLosses, victim.attack_losses).default, images)


def task_objective(victim: Victim, name: str, images: Tensor, broken: Broken | None = None) -> Objective:
    """The loss `name` of the victim's task; targeted losses aim at the likeliest wrong class, in
    each further run at the next one.

    With `broken`, which tells what is a success, damage is the task's scaled into (0, 1).

    Raises:
        UserError: the task has no such loss.
    """
    attack_losses, targets = cast(AttackLosses, victim.attack_losses), cast(Tensor, victim.targets)
    if name not in attack_losses.losses:
        raise unknown_name(f"objective for {victim.task or 'this model'}", name, attack_losses.losses)
    loss, own_aim = attack_losses.losses[name], name in attack_losses.damages
    measure = attack_losses.damages.get(name, attack_losses.damage)
    goals = _likeliest(victim, images, targets) if name in attack_losses.targeted else None

    def judge(x: Tensor, entries: Entries, progress: float) -> LossValues:
        output = victim.function(x)
        goal = None if goals is None else goals[entries.rows, entries.runs % goals.shape[1]]
        aim = LossContext(targets[entries.rows], victim.space, progress, goal)
        value = loss(output, aim)
        with torch.no_grad():
            step_loss = attack_losses.step_loss(output, aim) if attack_losses.step_loss else value
            damage = measure(output, aim)
            if broken:
                share = damage.double() / (1 + damage.double().abs())
                return LossValues(value, step_loss, (1 + share) / 2, broken(output, aim, entries.rows))
            success = torch.zeros_like(value, dtype=torch.bool)
            if attack_losses.success and not own_aim:
                success = attack_losses.success(output, aim)
            return LossValues(value, step_loss, damage, success)

    return judge


def lost_score(victim: Victim, images: Tensor, share: float, draws: int) -> Broken:
    """Tells which images have lost a share of their clean score, mean over `draws` of a model that answers at random.

    Their score is at most `1 - share` of the clean one; or their error, where the task has one, is above the clean one
    and at least `1 / (1 - share)` of it.
    """
    losses, targets = cast(AttackLosses, victim.attack_losses), cast(Tensor, victim.targets)
    measure = losses.score or losses.damage
    with torch.no_grad():
        aim = [LossContext(targets, victim.space) for _ in range(draws)]
        clean = mean_of([measure(victim.function(images), one).double() for one in aim])

    def broken(output: Tensor, aim: LossContext, rows: Tensor) -> Tensor:
        now, before = measure(output, aim).double(), clean[rows]
        if losses.score:
            return now <= (1 - share) * before
        return (now > before) & ((1 - share) * now >= before)

    return broken


def _likeliest(victim: Victim, images: Tensor, targets: Tensor) -> Tensor:
    """The wrong classes of each image (B, C - 1), by descending logit."""
    with torch.no_grad():
        logits: Tensor = victim.function(images)
    wrong = logits.scatter(1, targets[:, None], -torch.inf)
    return wrong.argsort(stable=True, dim=1, descending=True)[:, :-1]
