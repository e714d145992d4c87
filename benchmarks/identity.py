"""What it costs to know data by content: 50,000 small files, first seen and seen again. Writes JSON."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from robustprobe.datasets import load_dataset

COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
CLASSES = 10


def write(folder: Path) -> int:
    """JPEG files of 64 x 64 pixels in one folder per class; their bytes together."""
    generator = np.random.default_rng(0)
    for number in range(CLASSES):
        (folder / "test" / f"class {number}").mkdir(parents=True)
    for number in range(COUNT):
        pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        path = folder / "test" / f"class {number % CLASSES}" / f"{number:05d}.jpg"
        Image.fromarray(pixels).resize((64, 64)).save(path)
    return sum(path.stat().st_size for path in folder.rglob("*.jpg"))


def cost(work: Callable[[], object]) -> dict[str, float]:
    """Seconds on the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return {"clock": round(time.perf_counter() - clock, 2), "processor": round(time.process_time() - processor, 2)}


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["ROBUSTPROBE_CACHE"] = f"{temporary}/cache"
        folder = Path(temporary) / "data"
        size = write(folder)
        time.sleep(3)  # files written just now are not taken into the index
        data = load_dataset(f"imagefolder:{folder}")
        found = {
            "listed": cost(lambda: load_dataset(f"imagefolder:{folder}")),
            "first": cost(data.digest),
            "again": cost(data.digest),
            "decoded": cost(lambda: [data.read(index).image.load() for index in range(COUNT)]),
        }
        index = (Path(temporary) / "cache" / "content.sqlite").stat().st_size
    print(json.dumps({"files": COUNT, "bytes": size, "index_bytes": index, "seconds": found}, indent=1))


if __name__ == "__main__":
    main()
