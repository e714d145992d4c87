"""Share of an attack's time outside forward and backward passes: losses, steps, bookkeeping.

uv run python benchmarks/overhead.py --encoder timm:vit_small_patch16_224.random --size 224 --out results.json
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import robustprobe as rp
from robustprobe.attacks import Victim, load_attack
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.types import HeadDesign, LabelSpace
from robustprobe.core.views import Resized
from robustprobe.tasks import Model, fit_labels, load_task

CASES = {"pgd": "classification", "segpgd": "segmentation", "cospgd": "segmentation", "depthpgd": "depth"}


class Clock:
    """Adds up the time of the calls it wraps; calls within calls count once."""

    def __init__(self) -> None:
        self.seconds, self.depth = 0.0, 0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            start, self.depth = time.perf_counter(), self.depth + 1
            try:
                return function(*arguments, **options)
            finally:
                self.depth -= 1
                self.seconds += time.perf_counter() - start if self.depth == 0 else 0

        return call


def share_outside(model: Model, name: str, images: Tensor, targets: Tensor, steps: int) -> float:
    """Share of an attack's time outside forward passes of the model and backward passes."""
    clock, grad, size = Clock(), torch.autograd.grad, (images.shape[-2], images.shape[-1])
    task = model.task
    victim = Victim(clock.timed(model), fit_labels(targets, size), task.space, task.attack_losses, task.name)
    attack = load_attack(AttackSpec(name=name, steps=steps))
    torch.autograd.grad = clock.timed(grad)
    try:
        start = time.perf_counter()
        attack(victim, images, [str(i) for i in range(len(images))])
        spent = time.perf_counter() - start
    finally:
        torch.autograd.grad = grad
    return 1 - clock.seconds / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="timm:vit_small_patch16_224.random")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    encoder, side = rp.load_encoder(options.encoder), options.size
    images = torch.rand(options.batch, 3, side, side)
    labels = {
        "classification": torch.zeros(options.batch, dtype=torch.int64),
        "segmentation": torch.randint(0, options.classes, (options.batch, side, side)),
        "depth": torch.rand(options.batch, side, side) * 9 + 0.5,
    }
    found: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(options.rounds):
        for name, kind in CASES.items():
            task = load_task(kind, LabelSpace(classes=tuple(str(i) for i in range(options.classes))))
            head = task.head(encoder.card.widths, HeadDesign())
            model = Model(encoder, head, task, Resized(size=(side, side))).eval().requires_grad_(False)
            found[name].append(share_outside(model, name, images, labels[kind], options.steps))
    for name, shares in found.items():
        print(
            f"{name}: {sorted(shares)[len(shares) // 2]:.1%} outside (rounds: {', '.join(f'{s:.1%}' for s in shares)})"
        )
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({**vars(options), "out": None, "outside": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
