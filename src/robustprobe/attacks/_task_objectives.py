"""Losses of a task as objectives of attacks."""

from typing import cast

import torch
from torch import Tensor

from robustprobe.attacks._search import Entries, LossValues, Objective
from robustprobe.attacks.base import Victim
from robustprobe.core.errors import unknown_name
from robustprobe.core.types import AttackLosses, LossContext


def default_objective(victim: Victim, name: str, images: Tensor) -> Objective:
    """The loss `name` of the victim's task, or the task's default loss if it is empty."""
    return task_objective(victim, name or cast(AttackLosses, victim.attack_losses).default, images)


def task_objective(victim: Victim, name: str, images: Tensor) -> Objective:
    """The loss `name` of the victim's task; targeted losses aim at the likeliest wrong class, in
    each further run at the next one.

    Raises:
        UserError: the task has no such loss.
    """
    attack_losses, targets = cast(AttackLosses, victim.attack_losses), cast(Tensor, victim.targets)
    if name not in attack_losses.losses:
        raise unknown_name(f"objective for {victim.task or 'this model'}", name, attack_losses.losses)
    loss = attack_losses.losses[name]
    goals = _likeliest(victim, images, targets) if name in attack_losses.targeted else None

    def judge(x: Tensor, entries: Entries, progress: float) -> LossValues:
        output = victim.function(x)
        goal = None if goals is None else goals[entries.rows, entries.runs % goals.shape[1]]
        aim = LossContext(targets[entries.rows], victim.space, progress, goal)
        value = loss(output, aim)
        with torch.no_grad():
            step_loss = attack_losses.step_loss(output, aim) if attack_losses.step_loss else value
            success = torch.zeros_like(value, dtype=torch.bool)
            if attack_losses.success:
                success = attack_losses.success(output, aim)
            return LossValues(value, step_loss, attack_losses.damage(output, aim), success)

    return judge


def _likeliest(victim: Victim, images: Tensor, targets: Tensor) -> Tensor:
    """The wrong classes of each image (B, C - 1), by descending logit."""
    with torch.no_grad():
        logits: Tensor = victim.function(images)
    wrong = logits.scatter(1, targets[:, None], -torch.inf)
    return wrong.argsort(stable=True, dim=1, descending=True)[:, :-1]
