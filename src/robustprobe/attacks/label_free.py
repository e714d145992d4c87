"""`embed` and `surrogate`, the worse image of the two by a criterion that knows no head and no label"""

from collections.abc import Callable
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from robustprobe.attacks._embedding_objectives import embedding_objective
from robustprobe.attacks._phases import SIGN_TUNING, Phase, PhasedAttack
from robustprobe.attacks._search import Entries, LossValues, Objective, Passes
from robustprobe.attacks._sign_gradient import sign_gradient
from robustprobe.attacks._surrogate_objective import surrogate_objective
from robustprobe.attacks.base import Victim
from robustprobe.core.errors import UserError
from robustprobe.core.types import AttackLosses

TINY = 1e-12


@final
class LabelFree(PhasedAttack):
    """Both attacks; of all their iterates the one with the largest product of feature distance and surrogate damage.

    Neither measure has the unit of the other, and a product is the same in every unit. The encoder and the image
    suffice.
    """

    access: ClassVar = "encoder"
    tuning: ClassVar = SIGN_TUNING

    def phases(self, victim: Victim, images: Tensor) -> list[Phase]:
        if self.spec.objective:
            raise UserError(f"label-free has its own objectives; leave :{self.spec.objective} out.")
        seen = victim._replace(function=_remembering(victim.function))
        far, fooled = embedding_objective(seen, "l2", images), surrogate_objective(seen, "label-free", images)
        parts = {"embed": (far, fooled), "surrogate": (fooled, far)}
        steps, runs = self.spec.steps, self.spec.restarts
        return [Phase(name, _with_product(*both), sign_gradient, steps, runs) for name, both in parts.items()]

    def passes(self, losses: AttackLosses | None = None) -> Passes:
        found = super().passes(losses).times(2)
        return found._replace(forwards=found.forwards + 1)


def _with_product(raised: Objective, other: Objective) -> Objective:
    """An objective whose damage is the logarithm of its product with another one's damage."""

    def judge(x: Tensor, entries: Entries, progress: float) -> LossValues:
        own = raised(x, entries, progress)
        with torch.no_grad():
            damages = (own.damage, other(x, entries, progress).damage)
            product = sum((d.double().clamp(min=TINY).log() for d in damages), torch.zeros_like(own.damage).double())
        return own._replace(damage=product)

    return judge


def _remembering(function: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """A function that answers at once what it was asked last."""
    last: list[tuple[Tensor, bool, Any]] = []

    def call(images: Tensor) -> Any:
        graph = images.requires_grad and torch.is_grad_enabled()
        if last and last[0][0] is images and (last[0][1] or not graph):
            return last[0][2]
        answer = function(images)
        last[:] = [(images, graph, answer)]
        return answer

    return call
