"""Memory and time per image of runs over 100 to 10,000 images, each count in a separate process.

uv run python benchmarks/streaming.py --out benchmarks/results/streaming.json

With `--clean` nothing is attacked, which leaves reading, evaluation and rows, for up to 100,000 images.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
from PIL import Image

import robustprobe as rp
from robustprobe.core.types import LabelSpace
from robustprobe.datasets.base import RawSample

COUNTS = (100, 1000, 10_000)
CLEAN_COUNTS = (1000, 10_000, 100_000)
SIDE = 32


@final
class Noise(rp.Dataset):
    """Images of noise with a class and a depth map, generated on access."""

    labels: ClassVar = {"classification": LabelSpace(classes=("a", "b", "c")), "depth": LabelSpace()}
    native_size: ClassVar = (SIDE, SIDE)

    def ids(self) -> list[str]:
        return [f"{self.split}-{i}" for i in range(CLEAN_COUNTS[-1])]

    def read(self, index: int) -> RawSample:
        values = np.random.default_rng(index).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        depth = values.mean(2) / 64 + 0.5
        labels: dict[str, Any] = {"classification": index % 3, "depth": depth.astype(np.float32)}
        return RawSample(Image.fromarray(values), labels)


def measure(count: int, attacks: list[str]) -> dict[str, Any]:
    """Seconds per image, and peak memory (MiB), of a run over that many images."""
    suite: dict[str, Any] = {"steps": 2, "head": {"train_limit": 64, "epochs": 1}, "sanity_images": 0}
    with tempfile.TemporaryDirectory() as out:
        data = f"{Path(__file__).resolve()}:Noise"
        options: dict[str, Any] = {"limit": 32, "out": Path(out) / "warm", **suite}
        rp.evaluate("bundled:scenes", [data], attacks, **options)
        start = time.perf_counter()
        options |= {"limit": count, "out": Path(out) / "run"}
        rp.evaluate("bundled:scenes", [data], attacks, **options)
        spent = time.perf_counter() - start
    return {"attacks": attacks, "images": count, "seconds_per_image": spent / count, "peak_mib": peak_mib()}


def peak_mib() -> float:
    """Peak memory (MiB) of this process; `getrusage` would include the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--clean", action="store_true", help="attack nothing")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.count:
        print(json.dumps(measure(options.count, ["clean"] if options.clean else ["pgd", "depthpgd"])))
        return
    found = []
    for count in CLEAN_COUNTS if options.clean else COUNTS:
        command = [sys.executable, __file__, "--count", str(count), *["--clean"] * options.clean]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(found[-1], flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
