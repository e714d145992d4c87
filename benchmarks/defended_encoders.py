"""What is left of three defences before a bundled encoder under plain and under adapted attacks.

    python benchmarks/defended_encoders.py --data-root ../shared/data

The defences stand between the images and the encoder, and its head is fitted without them: noise, JPEG, and random
dithering to a few grey levels. `undefended` is the same model without any. One seed, one set of test images.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.io import decode_jpeg, encode_jpeg

import robustprobe as rp
from robustprobe.datasets import load_dataset
from robustprobe.datasets.base import batches
from robustprobe.tasks import Model

NOISE, QUALITY, LEVELS = 0.1, 30, 4


class Noise(nn.Module):
    """Gaussian noise at every call."""

    def forward(self, images: Tensor) -> Tensor:
        return (images + NOISE * torch.randn_like(images)).clamp(0, 1)


class Jpeg(nn.Module):
    """JPEG, written and read again."""

    def forward(self, images: Tensor) -> Tensor:
        whole = (images.detach() * 255).round().to(torch.uint8).cpu()
        return torch.stack([decode_jpeg(encode_jpeg(image, QUALITY)) for image in whole]).to(images) / 255


class Dithering(nn.Module):
    """Few grey levels, after uniform noise of one step between them."""

    def forward(self, images: Tensor) -> Tensor:
        steps = LEVELS - 1
        return (images * steps + torch.rand_like(images) - 0.5).round().clamp(0, steps) / steps


class Defended(nn.Module):
    """A model behind a defence."""

    def __init__(self, defence: nn.Module, model: Model) -> None:
        super().__init__()
        self.defence, self.model = defence, model

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.model(self.defence(images))
        return answer


ATTACKS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "EoT 20": {"eot_samples": 20},
    "straight through": {"bpda": "defence"},
    "both": {"bpda": "defence", "eot_samples": 20},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="bundled:photos")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--eps", default="1/255")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--train-limit", type=int, default=2000)
    options = parser.parse_args()
    model = rp.fit_probe(
        options.encoder, "cifar10", task="classification", root=options.data_root, train_limit=options.train_limit
    )
    data = load_dataset("cifar10", root=options.data_root, split="test", limit=options.limit, size=model.size)
    (batch,) = batches(data, options.limit)
    targets = batch.targets["classification"]
    print(f"{options.encoder}, {options.limit} images of CIFAR-10, eps {options.eps}, {options.steps} steps of pgd")
    print("| defence | attack | one answer | worst of 10 |\n|---|---|---:|---:|")
    for defence in (nn.Identity(), Noise(), Jpeg(), Dithering()):
        defended = Defended(defence, model).eval()
        name = "undefended" if isinstance(defence, nn.Identity) else type(defence).__name__
        last = 1 if name == "undefended" else len(ATTACKS)
        for label, chosen in [("no attack", {"attack": "clean"}), *list(ATTACKS.items())[:last]]:
            scores = []
            for judgements in (1, 10):
                torch.manual_seed(0)
                given = {"attack": "pgd", "steps": options.steps, **chosen, "judgements": judgements}
                try:
                    found = rp.attack(
                        defended, batch.images, targets, task="classification", eps=options.eps, ids=batch.ids, **given
                    )
                    scores.append(f"{float(found.score.mean()):.3f}")
                except rp.UserError:
                    scores.append("no gradient")
            print(f"| {name} | {label} | {' | '.join(scores)} |", flush=True)


if __name__ == "__main__":
    main()
