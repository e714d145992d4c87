"""Rank correlation over encoders of the covariance gap under EmbedAttack with the score under the task's own attack.

    python scripts/gap_against_robustness.py RESULTS

A row for each task and dataset: Spearman's correlation of each gap with the attacked score (its sign turned for errors)
under the attack made for the task. Results hold `embed` and one attack for each task, at one eps.
"""

import sys
from pathlib import Path

from scipy.stats import spearmanr

from robustprobe.report.tables.feature_gaps import COLUMNS
from robustprobe.results.records import Record
from robustprobe.results.store import Store


def correlations(records: list[Record]) -> dict[str, tuple[int, list[float]]]:
    """By `task on dataset` the number of encoders, and the correlation of each of `COLUMNS`."""
    found: dict[str, tuple[int, list[float]]] = {}
    attacked = [r for r in records if r.is_task_specific and not r.is_clean]
    gaps = {(r.encoder, r.dataset, r.task): r.feature_gaps for r in records if r.feature_gaps}
    for task, dataset in sorted({(r.task, r.dataset) for r in attacked}):
        some = [r for r in attacked if (r.task, r.dataset) == (task, dataset)]
        scores = [r.headline.value * (1 if r.higher_is_better else -1) for r in some]
        of_all = [gaps[r.encoder, dataset, task] for r in some]
        values = [[getattr(gap, name).value for gap in of_all] for name in COLUMNS]
        found[f"{task} on {dataset}"] = (len(some), [float(spearmanr(own, scores).statistic) for own in values])
    return found


def main() -> None:
    """Print the table."""
    print("| task | encoders |", " | ".join(COLUMNS.values()), "|")
    for name, (count, values) in correlations(Store(Path(sys.argv[1])).records()).items():
        print(f"| {name} | {count} |", " | ".join(f"{value:+.2f}" for value in values), "|")


if __name__ == "__main__":
    main()
