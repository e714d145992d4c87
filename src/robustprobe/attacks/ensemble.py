"""Several strong attacks on a task, the worst case per image, in the manner of AutoAttack"""

from typing import ClassVar, NamedTuple, final

from torch import Tensor

from robustprobe.attacks._apgd import apgd
from robustprobe.attacks._phases import Phase, PhasedAttack
from robustprobe.attacks._search import Optimiser
from robustprobe.attacks._square import square
from robustprobe.attacks._staged import staged_apgd
from robustprobe.attacks._task_objectives import default_loss, task_objective
from robustprobe.attacks.base import Victim
from robustprobe.core.errors import UserError


class EnsembleMember(NamedTuple):
    """One attack of the ensemble; `share` multiplies the steps of the spec, `runs` its restarts."""

    loss: str
    optimiser: Optimiser
    share: float = 1.0
    runs: int = 1


ENSEMBLES = {
    "classification": (
        EnsembleMember("ce", apgd),
        EnsembleMember("targeted-dlr", apgd, runs=4),
        EnsembleMember("margin", square, share=8),
    ),
    "segmentation": (
        EnsembleMember("cospgd", apgd),
        EnsembleMember("js", staged_apgd),
        EnsembleMember("segpgd", staged_apgd),
        EnsembleMember("mask-ce", staged_apgd),
        EnsembleMember("mask-logit", staged_apgd),
    ),
    "depth": (
        EnsembleMember("rmse", apgd),
        EnsembleMember("nearer", staged_apgd),
        EnsembleMember("rmse", staged_apgd),
        EnsembleMember("silog", staged_apgd),
        EnsembleMember("farther", apgd),
    ),
}

LEAST_FOR_DLR = 4


@final
class Ensemble(PhasedAttack):
    """Classification: APGD on cross-entropy, targeted APGD on DLR, Square, cheap ones first, on survivors only.

    That is AutoAttack's idea (Croce & Hein 2020). Segmentation: APGD on CosPGD's loss, then SEA (Croce et al. 2024).
    Depth: APGD on several losses, from the ball itself and from larger ones.
    """

    access: ClassVar = "task"
    citation: ClassVar = (
        "Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free "
        "Attacks, 2020, arXiv:2003.01690"
    )
    steps: ClassVar = 50
    survivors_only: ClassVar = True

    def phases(self, victim: Victim, images: Tensor) -> list[Phase]:
        if self.spec.objective:
            raise UserError(f"ensemble has its own objectives; leave :{self.spec.objective} out.")
        parts = ENSEMBLES.get(victim.task) or (EnsembleMember(default_loss(victim), apgd),)
        if victim.task == "classification":
            parts = tuple(_fitting(part, len(victim.space.classes)) for part in parts)
        return [
            Phase(
                f"{part.loss} {part.optimiser.__name__}",
                task_objective(victim, part.loss, images),
                part.optimiser,
                max(1, round(part.share * self.spec.steps)),
                part.runs * self.spec.restarts,
            )
            for part in parts
        ]


def _fitting(part: EnsembleMember, classes: int) -> EnsembleMember:
    """A part for as many classes as there are: no more goals than wrong ones, and no DLR below four."""
    few = part.loss == "targeted-dlr" and classes < LEAST_FOR_DLR
    return part._replace(loss="targeted-ce" if few else part.loss, runs=min(part.runs, max(1, classes - 1)))
