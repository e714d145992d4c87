"""Does the drift of the embedding under corruptions predict what they cost? Reads a folder of results.

    python scripts/corruption_drift.py results --severity 3

For each encoder, dataset and task: Spearman's rank correlation, over corruptions, of the mean drift with the mean loss
of the images' scores, its 95 % bootstrap interval over images (500 resamples, seed 0), and the mean over corruptions of
the same correlation over single images.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from robustprobe.metrics.statistics import DRIFT, image_scores
from robustprobe.results.records import Record
from robustprobe.results.store import Store

Floats = NDArray[np.float64]
RESAMPLES = 500
FEWEST = 3


def columns(store: Store, record: Record) -> dict[str, Any]:
    """The rows of a record by column."""
    rows = store.rows(record.fingerprint)
    return {name: np.stack(rows.column(name).to_numpy()) for name in rows.column_names if name != "id"}


def losses(store: Store, clean: Record, corrupted: Sequence[Record]) -> tuple[Floats, Floats]:
    """Drift and loss of score, each (corruptions, images)."""
    sign = 1 if clean.higher_is_better else -1
    before = np.asarray(image_scores(clean.statistic, columns(store, clean)), dtype=float)
    after = [columns(store, record) for record in corrupted]
    lost = [sign * (before - np.asarray(image_scores(clean.statistic, rows), dtype=float)) for rows in after]
    return np.array([rows[DRIFT] for rows in after], dtype=float), np.array(lost)


def correlation(drift: Floats, lost: Floats) -> float:
    """Spearman's correlation of the means over images."""
    return float(spearmanr(drift.mean(1), np.nanmean(lost, 1)).statistic)


def report(name: str, drift: Floats, lost: Floats) -> str:
    """One line of the table."""
    generator, count = np.random.default_rng(0), drift.shape[1]
    draws = [generator.integers(0, count, count) for _ in range(RESAMPLES)]
    low, high = np.nanquantile([correlation(drift[:, d], lost[:, d]) for d in draws], [0.025, 0.975])
    single = [spearmanr(a, b, nan_policy="omit").statistic for a, b in zip(drift, lost, strict=True)]
    value = correlation(drift, lost)
    return f"{name:60s} {value:5.2f} [{low:.2f}, {high:.2f}]  single images {np.nanmean(single):5.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--severity", type=int, default=3)
    options = parser.parse_args()
    store = Store(options.folder)
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in store.records():
        groups.setdefault((record.encoder, record.dataset, record.task), []).append(record)
    for key, records in sorted(groups.items()):
        clean = next((r for r in records if r.is_clean), None)
        corrupted = [r for r in records if r.is_corruption and r.attack.eps == options.severity]
        if clean and len(corrupted) >= FEWEST:
            print(report(" ".join(key), *losses(store, clean, corrupted)))


if __name__ == "__main__":
    main()
