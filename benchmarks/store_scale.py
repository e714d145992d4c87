"""A large store of results: time to open, tabulate, report and merge it.

uv run python benchmarks/store_scale.py --cells 10000 --rows 1000 --out benchmarks/results/store-scale.json

Cells are of 20 encoders, 5 datasets, 3 tasks and as many attacks as needed, without example images.
"""

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow.compute
import pyarrow.dataset

from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.files import write_whole
from robustprobe.report.page.render import read_page
from robustprobe.report.tables.results import render, table_rows
from robustprobe.results.merge import merge
from robustprobe.results.records import Cost, HeadFacts, Interval, Provenance, Record
from robustprobe.results.store import Store

ENCODERS, DATASETS = 20, 5
METRICS = {
    "classification": ("top-1", "share", True),
    "segmentation": ("mIoU", "share", True),
    "depth": ("RMSE", "m", False),
}
OWN = {"classification": "pgd", "segmentation": "segpgd", "depth": "depthpgd"}


def generate(folder: Path, cells: int, rows: int) -> Store:
    """A store of that many cells with that many rows each, without the flush per file that a run does."""
    store, generator = Store(folder).prepare(), np.random.default_rng(0)
    ids = [f"test-{i:08d}" for i in range(rows)]
    for cell in range(cells):
        columns: dict[str, Any] = {
            "id": ids,
            "perturbation": generator.random(rows, np.float32),
            "correct": generator.random(rows) < 0.5,
        }
        columns |= {"true_class_probability": generator.random(rows), "correct_8bit": generator.random(rows) < 0.5}
        with mock.patch("os.fsync"):
            store.write_record(record(cell, rows, store.write_rows(f"cell{cell:08d}", columns)))
    return store


def record(cell: int, rows: int, digest: str) -> Record:
    """The record of cell number N: encoder, dataset, task and attack are the digits of N."""
    encoder, position = cell % ENCODERS, cell // ENCODERS
    dataset, position = position % DATASETS, position // DATASETS
    task, position = list(METRICS)[position % 3], position // 3
    metric, unit, higher = METRICS[task]
    attack = AttackSpec(name=OWN[task] if position else "clean", eps=position / 255, seed=0) if position < 255 else None
    attack = attack or AttackSpec(name=OWN[task], eps=1, seed=position)
    interval = Interval(value=0.5, ci_low=0.4, ci_high=0.6)
    name = f"encoder-{encoder}"
    return Record(
        fingerprint=f"cell{cell:08d}",
        group=f"group{cell:08d}",
        suite="large",
        encoder=name,
        encoder_digest=hashlib.sha256(name.encode()).hexdigest(),
        encoder_licence="unknown",
        dataset=f"data-{dataset}",
        dataset_digest=f"{dataset:064d}",
        split="test",
        image_size=(224, 224),
        image_ids_digest=f"{dataset}",
        task=task,
        target_task=task if position else "",
        attack=attack,
        precision="fp32",
        metric=metric,
        unit=unit,
        higher_is_better=higher,
        n=rows,
        metrics={metric: interval, "other": interval},
        metrics_8bit={metric: interval, "other": interval},
        largest_perturbation=attack.eps,
        cost=Cost(forwards=20, backwards=20),
        head=HeadFacts(
            fingerprint="h",
            recipe={"recipe": "standard", "epochs": 10},
            learning_rate=1e-3,
            held_out_score=0.5,
            train_images=1000,
            reads="cls of 1",
            view="whole",
        ),
        rows_sha256=digest,
        provenance=Provenance(
            command="robustprobe run large.yaml",
            started="2026-11-20T10:00:00+00:00",
            seconds=1.0,
            versions={"robustprobe": "0.1.0", "torch": "2.8.0"},
            git="abc",
            hardware="x",
            device="cpu",
        ),
    )


def rows_correct(folder: Path) -> int:
    """Number of correct images in a store, by a scan of one column."""
    column = pyarrow.dataset.dataset(folder, format="parquet").to_table(columns=["correct"])["correct"]
    return int(pyarrow.compute.sum(column).as_py())


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return round(time.perf_counter() - start, 2)


def measure(folder: Path, cells: int, rows: int) -> dict[str, Any]:
    found: dict[str, Any] = {"cells": cells, "rows": cells * rows}
    store = Store(folder / "large")
    if not store.folder.exists():
        found["generate"] = seconds(lambda: generate(store.folder, cells, rows))
    found["records"] = seconds(store.records)
    records = store.records()
    found["has, every cell"] = seconds(lambda: all(store.has(r.fingerprint) for r in records) or 1 / 0)
    found["one column of all rows"] = seconds(lambda: rows_correct(store.folder / "rows"))
    found["table rows"] = seconds(lambda: table_rows(records, transfer=True))
    for format in ("md", "csv", "rich"):
        found[f"table {format}"] = seconds(lambda format=format: render(records, format))  # type: ignore[misc]
    found["merge"] = seconds(lambda: merge([store.folder], folder / "merged"))
    found["merge again"] = seconds(lambda: merge([store.folder], folder / "merged"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=1000, help="rows a cell")
    parser.add_argument("--page", action="store_true", help="also the page")
    parser.add_argument("--folder", type=Path, help="keep the store here")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        found = measure(folder, options.cells, options.rows)
        if options.page:
            found["page"] = seconds(lambda: read_page([folder / "large"]))
    print(json.dumps(found, indent=1))
    if options.out:
        write_whole(options.out, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
