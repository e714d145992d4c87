"""Several strong attacks on a task, the worst result per image, in the manner of AutoAttack"""

from collections.abc import Callable
from typing import ClassVar, NamedTuple, cast, final

from torch import Tensor

from robustprobe.attacks._apgd import apgd
from robustprobe.attacks._phases import Phase, PhasedAttack
from robustprobe.attacks._search import Optimiser, Passes, all_passes, ascent_passes, query_passes
from robustprobe.attacks._square import square
from robustprobe.attacks._staged import staged_apgd, staged_passes
from robustprobe.attacks._task_objectives import task_objective
from robustprobe.attacks.base import LOOKS, Victim
from robustprobe.core.errors import UserError
from robustprobe.core.threat import L1
from robustprobe.core.types import AttackLosses, EnsembleMember


class MemberOptimiser(NamedTuple):
    """What raises the loss of a member, and the passes per image it takes for so many steps."""

    run: Optimiser
    passes: Callable[[int], Passes]


OPTIMISERS = {
    "apgd": MemberOptimiser(apgd, ascent_passes),
    "staged-apgd": MemberOptimiser(staged_apgd, staged_passes),
    "square": MemberOptimiser(square, query_passes),
}


@final
class Ensemble(PhasedAttack):
    """Classification: APGD on cross-entropy, targeted APGD on DLR, Square, cheap ones first, on survivors only.

    That is AutoAttack's idea (Croce & Hein 2020). Segmentation: APGD on CosPGD's loss, then SEA (Croce et al. 2024),
    chosen among as SEA does.
    Depth: APGD on several losses, from the ball itself and from larger ones.
    """

    access: ClassVar = "task"
    citation: ClassVar = (
        "Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free "
        "Attacks, 2020, arXiv:2003.01690"
    )
    steps: ClassVar = 50
    survivors_only: ClassVar = True
    whole_set: ClassVar = True

    def phases(self, victim: Victim, images: Tensor) -> list[Phase]:
        if self.spec.objective:
            raise UserError(f"ensemble has its own objectives; leave :{self.spec.objective} out.")
        losses = cast(AttackLosses, victim.attack_losses)
        return [
            Phase(
                f"{member.loss} {self._optimiser(member).run.__name__}",
                task_objective(victim, member.loss, images),
                self._optimiser(member).run,
                self._steps(member),
                member.runs * self.spec.restarts,
            )
            for member in members(losses)
        ]

    def passes(self, losses: AttackLosses | None = None) -> Passes:
        """Of an image that no member breaks: broken ones leave sooner."""
        found = members(cast(AttackLosses, losses))
        searches = [self._optimiser(m).passes(self._steps(m)).times(m.runs * self.spec.restarts) for m in found]
        return all_passes([Passes(len(found) + LOOKS - 1, 0), *searches])

    def warm_passes(self, losses: AttackLosses | None = None) -> Passes:
        first = members(cast(AttackLosses, losses))[0]
        return self._optimiser(first).passes(self._steps(first))

    def _optimiser(self, member: EnsembleMember) -> MemberOptimiser:
        """Under L1 Auto-PGD is published with larger balls first."""
        staged = member.optimiser == "apgd" and isinstance(self.threat, L1)
        return OPTIMISERS["staged-apgd" if staged else member.optimiser]

    def _steps(self, member: EnsembleMember) -> int:
        return max(1, round(member.share * self.spec.steps))


def members(losses: AttackLosses) -> tuple[EnsembleMember, ...]:
    """The attacks of a task's ensemble, or Auto-PGD on its default loss where it names none."""
    return losses.ensemble or (EnsembleMember(losses.default),)
