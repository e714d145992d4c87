"""Kill runs at random moments, start them again, and compare the results with those of an undisturbed run.

uv run python benchmarks/faults.py --out benchmarks/results/faults-cpu.json
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from robustprobe.results.store import Store

SUITE: dict[str, Any] = {
    "name": "faults",
    "encoders": ["bundled:scenes"],
    "datasets": [{"name": "scenes", "limit": 40}],
    "attacks": ["embed", "pgd", "segpgd"],
    "steps": 3,
    "sanity_images": 1,
    "examples": 2,
    "batch_size": 8,
    "head": {"train_limit": 64, "epochs": 2, "learning_rates": [0.01]},
}
PROGRAM = "from robustprobe.cli import main; main()"
TRIES = 6


class Fault(NamedTuple):
    """How a run is disturbed: a signal to the process that started it, to a worker or to Ray's own on this machine."""

    name: str
    executor: str
    victim: str
    signal: int


FAULTS = (
    Fault("SIGKILL of a local run", "local", "driver", signal.SIGKILL),
    Fault("Ctrl-C of a local run", "local", "driver", signal.SIGINT),
    Fault("SIGKILL of the driver of a Ray run", "ray", "driver", signal.SIGKILL),
    Fault("Ctrl-C of a Ray run", "ray", "driver", signal.SIGINT),
    Fault("SIGKILL of a Ray worker", "ray", "worker", signal.SIGKILL),
    Fault("SIGSTOP of a Ray worker", "ray", "worker", signal.SIGSTOP),
    Fault("SIGSTOP of an agent of Ray", "ray", "agent", signal.SIGSTOP),
    Fault("SIGKILL of the Ray node", "ray", "raylet", signal.SIGKILL),
)


class Place(NamedTuple):
    """Folders that the runs of a benchmark read and write."""

    suite: Path
    cache: Path

    def start(self, out: Path, executor: str) -> subprocess.Popen[str]:
        options = ["--executor", executor, "--shard-size", "8", *(["--workers", "2"] if executor == "ray" else [])]
        environment = {**os.environ, "ROBUSTPROBE_CACHE": str(self.cache)}
        command = [sys.executable, "-c", PROGRAM, "run", str(self.suite), "--out", str(out), *options]
        # Ray's own processes hold on to what they inherit: a pipe to them would not end with the run.
        with (out.parent / f"{out.name}.txt").open("a") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, text=True, env=environment)


def descendants(process: int) -> Iterator[tuple[int, str]]:
    """Child processes of a process, at any depth, with their titles."""
    try:
        children = [int(word) for task in Path(f"/proc/{process}/task").iterdir() for word in _words(task / "children")]
    except OSError:
        return
    for child in children:
        yield child, " ".join(_words(Path(f"/proc/{child}/cmdline")))
        yield from descendants(child)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().replace("\0", " ").split()
    except OSError:
        return []


def victims(process: subprocess.Popen[str], kind: str) -> list[int]:
    """Processes of a run that a fault may kill."""
    if kind == "driver":
        return [process.pid]
    if kind == "worker":
        return [child for child, title in descendants(process.pid) if title.startswith(("ray::IDLE", "ray::work_of"))]
    if kind == "agent":
        return [child for child, title in descendants(process.pid) if title.startswith("ray::DashboardAgent")]
    return [child for child, title in descendants(process.pid) if title.split(" ")[0].endswith("/raylet")]


def parts(out: Path) -> int:
    """Finished shards and cells."""
    return len(list(out.glob("shards/*/*.pt"))) + len(list(out.glob("cells/*.json")))


def strike(process: subprocess.Popen[str], fault: Fault, out: Path, dice: random.Random) -> bool:
    """Wait for a random amount of work and a little longer, then kill. False where the run had ended before."""
    wanted, before = dice.randint(0, 12), parts(out)
    while process.poll() is None and parts(out) - before < wanted:
        time.sleep(0.005)
    time.sleep(dice.uniform(0, 1.5))
    while process.poll() is None:
        found = victims(process, fault.victim)
        if found:
            os.kill(dice.choice(found), fault.signal)
            return True
        time.sleep(0.05)
    return False


def contents(out: Path) -> dict[str, Any]:
    """Rows and records by cell, examples with the checksums of their images by group."""
    store = Store(out)
    cells = {
        record.fingerprint: (store.rows(record.fingerprint).to_pydict(), record.metrics, record.checks)
        for record in store.records()
    }
    return cells | {group.group: group for group in store.groups()}


def trial(position: Place, fault: Fault, seed: int, folder: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Runs killed at random moments until one ends by itself, and whether the results equal the undisturbed ones."""
    dice, out = random.Random(seed), folder / f"{fault.name}-{seed}".replace(" ", "-")
    struck, codes, kept = 0, list[int](), list[int]()
    for attempt in range(TRIES):
        process = position.start(out, fault.executor)
        if attempt < 2:
            struck += strike(process, fault, out, dice)
        codes.append(process.wait(timeout=600))
        kept.append(parts(out))
        if codes[-1] == 0:
            break
    text = (folder / f"{out.name}.txt").read_text()
    return {
        "fault": fault.name,
        "seed": seed,
        "struck": struck,
        "exit_codes": codes,
        "parts_kept": kept,
        "same": codes[-1] == 0 and contents(out) == wanted,
        "left_over_shards": len(list(out.glob("shards/*/*"))),
        "traceback": "Traceback" in text,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=3, help="random moments for each fault")
    parser.add_argument("--only", default="", help="faults whose name holds this")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        position = Place(folder / "suite.yaml", folder / "cache")
        position.suite.write_text(json.dumps(SUITE))
        if position.start(folder / "undisturbed", "local").wait(timeout=900):
            raise SystemExit((folder / "undisturbed.txt").read_text())
        wanted, found = contents(folder / "undisturbed"), []
        for fault in FAULTS:
            for seed in range(options.moments if options.only in fault.name else 0):
                found.append(trial(position, fault, seed, folder, wanted))
                print(json.dumps(found[-1]), flush=True)
    if options.out:
        options.out.write_text(json.dumps({"suite": SUITE, "trials": found}, indent=1) + "\n")
    if not all(one["same"] for one in found):
        raise SystemExit("some runs did not end with the undisturbed results")


if __name__ == "__main__":
    main()
