"""Landmark retrieval by the revisited Oxford and Paris protocol: easy, medium and hard, junk ignored; mAP, mP@10"""

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar, final

import torch
from torch import Tensor

from robustprobe.core.spec import Statistic
from robustprobe.core.types import QueryTruth
from robustprobe.tasks._ranking import EASY, HARD, JUNK, revisited
from robustprobe.tasks._ranking_task import RankingTask, ranking_losses

LEVELS: Mapping[str, tuple[int, ...]] = {"medium": (EASY, HARD), "easy": (EASY,), "hard": (HARD,)}
"""What is relevant at each level; the rest of what is no negative is left out of the ranking."""


def _on_medium(codes: Tensor) -> tuple[Tensor, Tensor]:
    """What is relevant at the level medium, and what is irrelevant; junk counts nowhere."""
    return (codes == EASY) | (codes == HARD), codes == 0


@final
class Landmarks(RankingTask):
    """Labels (B,): of a query its place among the queries, of a gallery image its place among the images.

    Outputs similarities (B, N) with the gallery. `LabelSpace.queries` says what is relevant to each query; without
    them item i is an easy match of query i, and the next one a hard match.
    """

    metric: ClassVar = "mAP medium"
    statistics: ClassVar = {
        **{f"mAP {level}": Statistic(kind="mean", columns=(f"ap_{level}",)) for level in LEVELS},
        **{f"mP@10 {level}": Statistic(kind="mean", columns=(f"precision_10_{level}",)) for level in LEVELS},
    }
    attack_losses = ranking_losses(
        _on_medium, lambda output, codes: revisited(output, codes, LEVELS["medium"]).average_precision
    )
    score_column: ClassVar = "ap_medium"
    random_column: ClassVar = "random_medium"
    nothing_valid: ClassVar = "no image of the gallery is relevant"

    @cached_property
    def _codes(self) -> Tensor:
        """What every image is to every query, (Q, M) int8."""
        count = len(self.space.classes)
        queries = self.space.queries or tuple(QueryTruth(easy=(i,), hard=((i + 1) % count,)) for i in range(count))
        codes = torch.zeros(len(queries), count, dtype=torch.int8)
        for row, query in zip(codes, queries, strict=True):
            for code, images in ((EASY, query.easy), (HARD, query.hard), (JUNK, query.junk)):
                row[list(images)] = code
        return codes

    def codes(self, target: Tensor) -> Tensor:
        """What each item of the gallery is to queries (B,), (B, N): 0, `EASY`, `HARD` or `JUNK`."""
        return self._codes[target.cpu()][:, self.gallery.cpu()].to(target.device)

    def fit_labels(self, target: Tensor, size: tuple[int, int]) -> Tensor:
        """What each item is to each query, (B, N)."""
        return self.codes(target)

    def rows(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        codes, rows = self.codes(target), {}
        for level, relevant in LEVELS.items():
            found = revisited(output, codes, relevant)
            rows[f"ap_{level}"], rows[f"precision_10_{level}"] = found.average_precision, found.precision_10
            rows[f"random_{level}"] = found.random_precision
        return rows

    def example_targets(self, count: int, size: tuple[int, int], generator: torch.Generator | None = None) -> Tensor:
        return torch.randint(0, len(self.space.queries or self.space.classes), (count,), generator=generator)

    def label_name(self, label: Tensor) -> str:
        relevant = _on_medium(label if label.ndim else self.codes(label[None])[0])[0].nonzero()
        return self.space.classes[int(self.gallery[relevant[0, 0]])] if len(relevant) else "nothing"
