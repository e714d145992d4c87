"""Several strong attacks on a task, the worst case per image, in the manner of AutoAttack"""

from typing import ClassVar, cast, final

from torch import Tensor

from robustprobe.attacks._apgd import apgd
from robustprobe.attacks._phases import Phase, PhasedAttack
from robustprobe.attacks._search import Optimiser
from robustprobe.attacks._square import square
from robustprobe.attacks._staged import staged_apgd
from robustprobe.attacks._task_objectives import task_objective
from robustprobe.attacks.base import Victim
from robustprobe.core.errors import UserError
from robustprobe.core.types import AttackLosses, EnsembleMember

OPTIMISERS: dict[str, Optimiser] = {"apgd": apgd, "staged-apgd": staged_apgd, "square": square}


@final
class Ensemble(PhasedAttack):
    """Classification: APGD on cross-entropy, targeted APGD on DLR, Square, cheap ones first, on survivors only.

    That is AutoAttack's idea (Croce & Hein 2020). Segmentation: APGD on CosPGD's loss, then SEA (Croce et al. 2024).
    Depth: APGD on several losses, from the ball itself and from larger ones.
    """

    access: ClassVar = "task"
    steps: ClassVar = 50
    survivors_only: ClassVar = True

    def phases(self, victim: Victim, images: Tensor) -> list[Phase]:
        if self.spec.objective:
            raise UserError(f"ensemble has its own objectives; leave :{self.spec.objective} out.")
        losses = cast(AttackLosses, victim.attack_losses)
        return [
            Phase(
                f"{member.loss} {OPTIMISERS[member.optimiser].__name__}",
                task_objective(victim, member.loss, images),
                OPTIMISERS[member.optimiser],
                max(1, round(member.share * self.spec.steps)),
                member.runs * self.spec.restarts,
            )
            for member in losses.ensemble or (EnsembleMember(losses.default),)
        ]
