"""Throughput of one and two Ray workers with one thread each, overhead per shard, time to the first result.

uv run python benchmarks/scaling.py --out benchmarks/results/scaling-cpu.json

Pairs of runs, one after the other, with heads from the cache; the result is the median of their ratios, since the
load of the machine changes from minute to minute. Two workers need two free cores.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from robustprobe.core.spec import ExecutorOptions, Suite
from robustprobe.core.spec_base import validated
from robustprobe.evaluation.executors.ray import import_ray
from robustprobe.evaluation.plan import make_plan
from robustprobe.evaluation.run import RunProgress, execute
from robustprobe.results.store import Store

BAR = 1.8
SUITE: dict[str, Any] = {
    "encoders": ["bundled:scenes"],
    "attacks": ["segpgd"],
    "steps": 20,
    "sanity_images": 0,
    "examples": 0,
    "batch_size": 16,
    "head": {"train_limit": 200},
}


def run(images: int, shard: int, workers: int, suite: dict[str, Any] = SUITE) -> tuple[float, float]:
    """Seconds of a run with workers that are running already, and until its first shard is finished."""
    with tempfile.TemporaryDirectory() as out:
        data = suite | {"datasets": [{"name": "scenes", "limit": images}]}
        store = Store(Path(out)).prepare()
        plan = make_plan(validated(Suite, data, "scaling"), store, Path("data"), torch.device("cpu"))
        start, first = time.perf_counter(), list[float]()

        def notify(progress: RunProgress) -> None:
            if "heads" not in progress.label and not first:
                first.append(time.perf_counter() - start)

        failures = execute(plan, store, notify, ExecutorOptions(executor="ray", workers=workers, shard_size=shard))
        if failures:
            raise SystemExit(str(failures))
        return time.perf_counter() - start, first[0]


def started(workers: int) -> Any:
    """Ray with resources for that many workers of one thread each."""
    ray = import_ray()
    ray.init(address="local", num_cpus=workers, include_dashboard=False, logging_level="error", log_to_driver=False)
    return ray


def measured(workers: int, images: int) -> dict[str, float]:
    """Images per second once encoders are loaded, and seconds to the first result with cold processes."""
    ray = started(workers)
    try:
        cold = run(16 * workers, 16, workers)[1]
        seconds, warm = run(images, 16, workers)
        return {"workers": workers, "images_per_second": images / seconds, "first_cold": cold, "first_warm": warm}
    finally:
        ray.shutdown()


def overhead(shards: int) -> dict[str, float]:
    """Overhead of one more shard of a single clean image: seconds until it is done, with one worker, and
    processor seconds of the driver, which serves all workers of a cluster.
    """
    ray, idle = started(1), SUITE | {"attacks": ["clean"]}
    try:
        run(16, 16, 1, idle)
        used = [time.process_time()]
        seconds = []
        for size in (shards, 1):
            seconds.append(run(shards, size, 1, idle)[0])
            used.append(time.process_time())
        few, many = used[1] - used[0], used[2] - used[1]
        return {
            "seconds_per_shard_and_image": (seconds[1] - seconds[0]) / (shards - 1),
            "driver_seconds_per_shard": (many - few) / (shards - 1),
        }
    finally:
        ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pairs = [[measured(workers, options.images) for workers in (1, 2)] for _ in range(options.pairs)]
    ratios = [two["images_per_second"] / one["images_per_second"] for one, two in pairs]
    report = {
        "ratio_median": statistics.median(ratios),
        "ratios": ratios,
        "bar": BAR,
        **overhead(256),
        "load_average": os.getloadavg(),
        "pairs": pairs,
    }
    print(json.dumps(report, indent=1))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
