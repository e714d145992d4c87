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
        shared = _SharedAnswer(victim.function)
        seen = victim._replace(function=shared)
        far, fooled = embedding_objective(seen, "l2", images), surrogate_objective(seen, "label-free", images)
        parts = {"embed": (far, fooled), "surrogate": (fooled, far)}
        steps, runs = self.spec.steps, self.spec.restarts
        return [Phase(name, _with_product(shared, *both), sign_gradient, steps, runs) for name, both in parts.items()]

    def passes(self, losses: AttackLosses | None = None) -> Passes:
        found = super().passes(losses).times(2)
        return found._replace(forwards=found.forwards + 1)


class _SharedAnswer:
    """A function whose last answer several objectives share, until it is forgotten."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self.function = function
        self.last: tuple[Tensor, bool, Any] | None = None

    def __call__(self, images: Tensor) -> Any:
        graph = images.requires_grad and torch.is_grad_enabled()
        if self.last is None or self.last[0] is not images or (graph and not self.last[1]):
            self.last = images, graph, self.function(images)
        return self.last[2]

    def forget(self) -> None:
        self.last = None


def _with_product(shared: _SharedAnswer, raised: Objective, other: Objective) -> Objective:
    """An objective whose damage is the logarithm of its product with another one's damage."""

    def judge(x: Tensor, entries: Entries, progress: float) -> LossValues:
        # Each draw of a model that answers at random is an answer of its own, also to the same images.
        shared.forget()
        own = raised(x, entries, progress)
        with torch.no_grad():
            damages = (own.damage, other(x, entries, progress).damage)
            product = sum((d.double().clamp(min=TINY).log() for d in damages), torch.zeros_like(own.damage).double())
        return own._replace(damage=product)

    return judge
