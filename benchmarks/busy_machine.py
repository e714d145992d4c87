"""How much slower torch's threads are where several programs share the cores, and what a lower spin count mends.

    python benchmarks/busy_machine.py --encoder timm:tf_efficientnet_lite0.random --threads 2 --out results.json

Passes (forward and input gradient) per second of each of one, two and three processes at once; in turn with the default
of GNU OpenMP and with each of `--spin`, several times. Ratios are those of medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

PASSES = """
import sys, time, torch
import robustprobe as rp
torch.set_num_threads(int(sys.argv[1]))
encoder = rp.load_encoder(sys.argv[2])
images = torch.rand(4, 3, int(sys.argv[3]), int(sys.argv[3]), requires_grad=True)
def once():
    torch.autograd.grad(encoder(images).cls.sum(), images)
once()
start, count = time.perf_counter(), 0
while time.perf_counter() - start < float(sys.argv[4]):
    once()
    count += 1
print(count / (time.perf_counter() - start))
"""


def environment(spin: int | None) -> dict[str, str]:
    """What OpenMP reads when it is loaded."""
    own = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    return own if spin is None else {**own, "GOMP_SPINCOUNT": str(spin)}


def passes_per_second(arguments: argparse.Namespace, together: int, spin: int | None) -> float:
    """Of each of several processes at once, in the mean."""
    asked = [str(arguments.threads), arguments.encoder, str(arguments.size), str(arguments.seconds)]
    command = [sys.executable, "-c", PASSES, *asked]
    all_of_them = [
        subprocess.Popen(command, env=environment(spin), stdout=subprocess.PIPE, text=True) for _ in range(together)
    ]
    return statistics.mean(float(process.communicate()[0].split()[-1]) for process in all_of_them)


def main() -> None:
    """Print and write passes per second by what else runs and by spin count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="timm:tf_efficientnet_lite0.random")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--spin", type=int, action="append", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    spins = [None, *(arguments.spin or [3000])]
    found: dict[str, dict[str, list[float]]] = {}
    for together in (1, 2, 3):
        name = f"{together} at once"
        for _ in range(arguments.rounds):
            for spin in spins:
                value = passes_per_second(arguments, together, spin)
                found.setdefault(name, {}).setdefault(str(spin or "default"), []).append(value)
                print(f"{name}, {spin or 'default'}: {value:.2f} per second each", flush=True)
    ratios = {
        name: {spin: statistics.median(values) / statistics.median(by["default"]) for spin, values in by.items()}
        for name, by in found.items()
    }
    settings = {k: v for k, v in vars(arguments).items() if k != "out"}
    whole = {**settings, "passes_per_second": found, "ratio_to_default": ratios}
    print(json.dumps(ratios, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
