"""Time and memory of one query batch against large galleries: similarities, ranking, and a step of an attack.

python benchmarks/retrieval_gallery.py --items 1000000 --channels 384 --queries 16
"""

import argparse
import resource
import time

import torch
import torch.nn.functional as F

from robustprobe.losses.retrieval import soft_neighbour
from robustprobe.tasks._ranking import ranked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--channels", type=int, default=384)
    parser.add_argument("--queries", type=int, default=16)
    asked = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    items = F.normalize(torch.randn(asked.items, asked.channels, generator=generator), dim=1)
    queries = F.normalize(torch.randn(asked.queries, asked.channels, generator=generator), dim=1)
    relevant = torch.rand(asked.queries, asked.items, generator=generator) < 0.01
    report("gallery", time.perf_counter())
    start = time.perf_counter()
    similarity = queries @ items.T
    report("similarities", start)
    start = time.perf_counter()
    ranked(similarity, relevant)
    report("ranking", start)
    start = time.perf_counter()
    queries.requires_grad_(True)
    soft_neighbour(queries @ items.T, relevant).sum().backward()
    report("loss and gradient", start)


def report(stage: str, start: float) -> None:
    """Seconds since the start, and the most memory that the process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{stage}: {time.perf_counter() - start:.2f} s, peak {peak:.1f} GiB")


if __name__ == "__main__":
    main()
