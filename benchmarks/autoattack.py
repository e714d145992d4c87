"""`ensemble` against AutoAttack's standard version: the accuracy each leaves, and its cost.

    uv run python benchmarks/autoattack.py --encoder bundled:scenes-deacl --eps 2/255 --limit 64

Costs are images passed through the model, counted inside the model: forward, and backward where the input requires
grad. Both attack the same images, all of them classified correctly.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import robustprobe as rp
from robustprobe.core.sizes import parse_eps


class Counted(nn.Module):
    """A model that counts the images passed through it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forwards = self.backwards = 0

    def forward(self, images: Tensor) -> Tensor:
        self.forwards += len(images)
        self.backwards += len(images) if images.requires_grad else 0
        logits: Tensor = self.model(images)
        return logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="bundled:scenes-deacl")
    parser.add_argument("--dataset", default="scenes")
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--train-limit", type=int, default=1200)
    parser.add_argument("--eps", default="2/255")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--skip-autoattack", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = compare(options)
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")


def compare(options: argparse.Namespace) -> dict[str, Any]:
    model = rp.fit_probe(
        options.encoder,
        options.dataset,
        task="classification",
        root=options.data_root,
        train_limit=options.train_limit,
        device=options.device,
    )
    data = list(rp.load_dataset(options.dataset, root=options.data_root, limit=options.limit, size=model.size))
    images = torch.stack([s.image for s in data]).to(options.device)
    labels = torch.stack([s.targets["classification"] for s in data]).to(options.device)
    with torch.no_grad():
        right = torch.cat([model(x) for x in images.split(64)]).argmax(1) == labels
    images, labels = images[right], labels[right]
    found: dict[str, Any] = {"setting": {**vars(options), "out": None}, "images": len(data), "clean": len(images)}
    found["ensemble"] = with_worst(model, images, labels, options)
    if not options.skip_autoattack:
        found["autoattack"] = with_autoattack(model, images, labels, options)
    return found


def with_worst(model: nn.Module, images: Tensor, labels: Tensor, options: argparse.Namespace) -> dict[str, float]:
    counted, start = Counted(model), time.time()
    adversarial = rp.attack(
        counted, images, labels, task="classification", attack="ensemble", eps=options.eps, steps=options.steps
    ).adversarial
    return verdict(counted, adversarial, labels, time.time() - start)


def with_autoattack(model: nn.Module, images: Tensor, labels: Tensor, options: argparse.Namespace) -> dict[str, float]:
    from pyautoattack import AutoAttack

    counted, start = Counted(model), time.time()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    attack = AutoAttack(counted, norm="Linf", eps=parse_eps(options.eps), version="standard", device=options.device)
    adversarial = attack.run_standard_evaluation(images, labels, batch_size=64)
    adversarial = adversarial[0] if isinstance(adversarial, tuple) else adversarial
    return verdict(counted, adversarial, labels, time.time() - start)


def verdict(counted: Counted, adversarial: Tensor, labels: Tensor, seconds: float) -> dict[str, float]:
    found = {"forwards": counted.forwards, "backwards": counted.backwards, "seconds": round(seconds, 1)}
    with torch.no_grad():
        left = (torch.cat([counted.model(x) for x in adversarial.split(64)]).argmax(1) == labels).float().mean()
    return {"left_of_correct": float(left), **found}


if __name__ == "__main__":
    main()
