"""SEA on a segmenter: Auto-PGD on three losses, chosen among by the mIoU of the set (Croce et al., ECCV 2024)"""

from typing import ClassVar, final

from torch import Tensor

from robustprobe.attacks._phases import Phase, PhasedAttack
from robustprobe.attacks._search import Passes
from robustprobe.attacks._staged import staged_apgd, staged_passes
from robustprobe.attacks._task_objectives import task_objective
from robustprobe.attacks.base import LOOKS, Victim
from robustprobe.core.types import AttackLosses

LOSSES = ("mask-ce-bal", "mask-ce", "js")


@final
class Sea(PhasedAttack):
    """Segmentation Ensemble Attack (Croce, Singh & Hein, ECCV 2024): APGD at 2, 1.5 and 1 eps on three losses.

    They are class-balanced mask-CE, mask-CE and the Jensen-Shannon divergence, as in the authors' program. In a run the
    image that counts is chosen among them by its effect on the mIoU of the set; elsewhere it is the one with most wrong
    pixels. The authors make 300 steps for each loss.
    """

    access: ClassVar = "segmentation"
    citation: ClassVar = (
        "Croce et al., Towards Reliable Evaluation and Fast Training of Robust Semantic Segmentation Models, 2024, "
        "arXiv:2306.12941"
    )
    steps: ClassVar = 100
    whole_set: ClassVar = True

    def phases(self, victim: Victim, images: Tensor) -> list[Phase]:
        steps, runs = self.spec.steps, self.spec.restarts
        return [Phase(n, task_objective(victim, n, images), staged_apgd, steps, runs) for n in self._losses]

    def passes(self, losses: AttackLosses | None = None) -> Passes:
        search = staged_passes(self.spec.steps).times(self.spec.restarts * len(self._losses))
        return search._replace(forwards=search.forwards + LOOKS)

    @property
    def _losses(self) -> tuple[str, ...]:
        return (self.spec.objective,) if self.spec.objective else LOSSES
