"""Common corruptions at severity 1 to 5, such as corruption:fog; corruptions stands for all of the benchmark"""

from typing import ClassVar, final

import torch
from torch import Tensor

from robustprobe.attacks._search import Passes, PerImageRandom, SearchResult, everything, unjudged
from robustprobe.attacks.base import Attack, Victim
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.corruption_names import check_corruption
from robustprobe.core.types import AttackLosses
from robustprobe.corruptions import corrupted


@final
class Corruption(Attack):
    """What happens to images without an attacker; the objective names the corruption, and the severity is its size."""

    access: ClassVar = "nothing"
    uses_gradient: ClassVar = False
    warm_start: ClassVar = False
    own_unit: ClassVar = "severity"
    citation: ClassVar = (
        "Hendrycks & Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, 2019, "
        "arXiv:1903.12261"
    )
    steps: ClassVar = 1

    def __init__(self, spec: AttackSpec) -> None:
        super().__init__(spec)
        check_corruption(spec.objective)

    def passes(self, losses: AttackLosses | None = None) -> Passes:
        return Passes(0, 0)

    def perturb(
        self, victim: Victim, images: Tensor, randomness: PerImageRandom, previous: Tensor | None
    ) -> SearchResult:
        # Each corruption has random numbers of its own; of one corruption all severities share them.
        generators = randomness.named(self.spec.objective).generators(everything(images))
        severity = int(self.spec.eps)
        made = [
            corrupted(image, self.spec.objective, severity, one) for image, one in zip(images, generators, strict=True)
        ]
        return unjudged(torch.stack(made).to(images))
