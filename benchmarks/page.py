"""Time and size of the page of a thousand cells: `python benchmarks/page.py [ENCODERS] [FOLDER]`.

Twelve encoders on three tasks under seven attacks at four sizes, transfer included, without example images. Prints
seconds from the start of a process that imports nothing beforehand.
"""

import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from robustprobe.core.attack_spec import AttackSpec
from robustprobe.results.records import HeadFacts, Interval, Provenance, Record
from robustprobe.results.store import Store

METRICS = {
    "classification": ("top-1", "share", True, 0.9),
    "segmentation": ("mIoU", "share", True, 0.5),
    "depth": ("RMSE", "m", False, 0.6),
}
TARGET_TASK = {"pgd": "classification", "segpgd": "segmentation", "depthpgd": "depth"}
EPS = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
HARM = {"clean": 0.0, "noise": 0.02, "embed": 0.5, "surrogate": 0.4}


def fabricated(encoders: list[str]) -> list[Record]:
    """Records as of a large suite; scores fall with eps, and later encoders keep less."""
    return [
        _record(encoder, k, name, eps, task)
        for k, encoder in enumerate(encoders)
        for name in ("clean", "noise", "embed", "surrogate", *TARGET_TASK)
        for eps in ((0.0,) if name == "clean" else EPS)
        for task in METRICS
    ]


def _record(encoder: str, position: int, name: str, eps: float, task: str) -> Record:
    metric, unit, higher, start = METRICS[task]
    digest = hashlib.sha256(encoder.encode()).hexdigest()
    damage = (
        HARM.get(name, 0.9 if TARGET_TASK.get(name) == task else 0.3)
        * min(1.0, eps * 255 / 8)
        * (0.6 + 0.03 * position)
    )
    value = start * (1 - damage) if higher else start * (1 + 4 * damage)
    interval = Interval(value=value, ci_low=max(0.0, value - 0.03), ci_high=value + 0.03)
    attack = AttackSpec(name=name, eps=eps, steps=1 if name in ("clean", "noise") else 20)
    facts: dict[str, Any] = {
        "fingerprint": hashlib.sha256(f"{encoder}/{name}/{eps}/{task}".encode()).hexdigest()[:16],
        "group": hashlib.sha256(f"{encoder}/{name}/{eps}".encode()).hexdigest()[:16],
        **{"suite": "fabricated", "encoder": encoder, "encoder_digest": digest, "encoder_licence": "Apache-2.0"},
        **{"dataset": "scenes", "dataset_digest": "d" * 16, "split": "test", "image_size": (64, 64)},
        **{"image_ids_digest": "i" * 16, "task": task, "target_task": TARGET_TASK.get(name, ""), "attack": attack},
        **{"precision": "fp32", "metric": metric, "unit": unit, "higher_is_better": higher, "n": 1000},
        **{"metrics": {metric: interval}, "metrics_8bit": {metric: interval}, "largest_perturbation": eps},
        "head": HeadFacts(
            fingerprint=f"{digest[:8]}-{task}",
            recipe={"recipe": "fast"},
            learning_rate=0.01,
            held_out_score=0.8,
            train_images=1000,
        ),
        "rows_sha256": "0" * 64,
        "provenance": Provenance(
            command="robustprobe run fabricated.yaml",
            started="2026-11-20T10:00:00+00:00",
            seconds=30.0,
            versions={"robustprobe": "0.1.0"},
            git="",
            hardware="none: fabricated",
            device="cpu",
        ),
    }
    return Record(**facts)


def fabricate(folder: Path, encoders: list[str]) -> Store:
    """A store of such records."""
    store = Store(folder).prepare()
    for record in fabricated(encoders):
        store.write_record(record)
    return store


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 14
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(temporary)
        fabricate(folder, [f"timm:vit_small_patch{k}.made_up" for k in range(count)])
        page = folder / "report.html"
        start = time.monotonic()
        program = "from robustprobe.cli import main; main()"
        subprocess.run([sys.executable, "-c", program, "report", str(folder)], check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - start
        cells = len(list((folder / "cells").glob("*.json")))
        print(f"{cells} cells, {count} encoders: {seconds:.1f} s, {page.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
