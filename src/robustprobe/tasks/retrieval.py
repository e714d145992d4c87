"""Image retrieval by the cosine of embeddings, train images being the gallery; mAP"""

from typing import ClassVar, final

import torch
from torch import Tensor

from robustprobe.core.spec import Statistic
from robustprobe.core.types import LabelStatistics
from robustprobe.losses import retrieval as losses
from robustprobe.tasks._class_labels import found_classes, lone_class, missing_classes
from robustprobe.tasks._ranking import ranked
from robustprobe.tasks._ranking_task import RankingTask, ranking_losses


@final
class Retrieval(RankingTask):
    """Labels (B,), outputs similarities (B, N) with the items of a gallery; items of a query's label are relevant.

    Without a gallery, item i is the only one with label i.
    """

    metric: ClassVar = "mAP"
    statistics: ClassVar = {
        "mAP": Statistic(kind="mean", columns=("average_precision",)),
        "recall@1": Statistic(kind="proportion", columns=("hit_1",)),
        "recall@5": Statistic(kind="proportion", columns=("hit_5",)),
        "chosen@1": Statistic(kind="proportion", columns=("chosen_1",)),
        "chosen@5": Statistic(kind="proportion", columns=("chosen_5",)),
    }
    attack_losses = ranking_losses(
        lambda relevant: (relevant, None), lambda output, relevant: ranked(output, relevant).average_precision
    )
    score_column: ClassVar = "average_precision"
    random_column: ClassVar = "random_precision"
    labels_of: ClassVar = "classification"
    nothing_valid: ClassVar = "no item of the gallery is relevant"

    def relevant(self, target: Tensor) -> Tensor:
        """Which items are relevant to queries of these labels (B,), as (B, N)."""
        return target[:, None] == self.gallery.to(target.device)

    def fit_labels(self, target: Tensor, size: tuple[int, int]) -> Tensor:
        """The items that are relevant, (B, N)."""
        return self.relevant(target)

    def rows(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        relevant = self.relevant(target)
        rank = losses.chosen_rank(output, relevant)
        near = {f"chosen_{most}": (rank <= most).double() for most in (1, 5)}
        return ranked(output, relevant)._asdict() | near

    def example_targets(self, count: int, size: tuple[int, int], generator: torch.Generator | None = None) -> Tensor:
        return torch.randint(0, len(self.space.classes), (count,), generator=generator)

    def describe_labels(self, found: LabelStatistics) -> str:
        return found_classes(found, self.space)

    def label_warnings(self, found: LabelStatistics, whole: bool) -> list[str]:
        return lone_class(found, self.space) + (missing_classes(found, self.space, self.name) if whole else [])

    def label_name(self, label: Tensor) -> str:
        return self.space.classes[int(self.gallery[label.nonzero()[0, 0]] if label.ndim else label)]
