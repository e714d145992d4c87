"""What is left of test-time defences before an encoder under plain and under adapted attacks.

    python benchmarks/defended_encoders.py --data-root ../shared/data

Heads are fitted through the defence. `transfer` judges images made on the undefended encoder. One seed, one list of
test images; shares of right answers with Wilson intervals of 95 %.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import robustprobe as rp
from robustprobe.datasets import batches, load_dataset
from robustprobe.encoders import Defended
from robustprobe.metrics.intervals import wilson
from robustprobe.tasks import Model

ADAPTIVE = {
    "jpeg": ("bpda",),
    "bit-depth": ("bpda",),
    "dithering": ("bpda", "eot_samples"),
    "noise": ("eot_samples",),
    "views": ("eot_samples",),
}
"""What could help against each: a straight-through gradient where its own is 0, EoT where it is random."""
DRAWS = 4
ATTACKS: Mapping[str, Mapping[str, Any]] = {
    "no attack": {"attack": "clean"},
    "noise": {"attack": "noise"},
    "plain": {},
    f"EoT {DRAWS}": {"eot_samples": DRAWS},
    "straight through": {"bpda": "defence"},
    "both": {"bpda": "defence", "eot_samples": DRAWS},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="bundled:photos")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--size", type=int, default=None)
    parser.add_argument("--eps", default="1/255")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--train-limit", type=int, default=2000)
    parser.add_argument("--defences", nargs="+", choices=ADAPTIVE, default=list(ADAPTIVE))
    options = parser.parse_args()
    encoder = rp.load_encoder(options.encoder)
    plain = fitted(encoder, options)
    data = load_dataset("cifar10", root=options.data_root, split="test", limit=options.limit, size=plain.size)
    (batch,) = batches(data, options.limit)
    images, targets = batch.images, batch.targets["classification"]
    given = {"task": "classification", "eps": options.eps, "steps": options.steps, "ids": batch.ids}

    def attacked(model: Model, **chosen: Any) -> Tensor:
        torch.manual_seed(0)
        return rp.attack(model, images, targets, **{"attack": "pgd", **given, **chosen}).adversarial

    def judged(model: Model, shown_images: Tensor, judgements: int = 1) -> str:
        torch.manual_seed(1)
        clean: dict[str, Any] = {"attack": "clean", "task": "classification", "judgements": judgements}
        return shown(rp.attack(model, shown_images, targets, **clean).score)

    print(f"{options.encoder}, {options.limit} images of CIFAR-10, eps {options.eps}, {options.steps} steps of pgd")
    print("| defence | attack | one answer | worst of 10 |\n|---|---|---:|---:|")
    made = attacked(plain)
    for name, moved in (("no attack", images), ("noise", attacked(plain, attack="noise")), ("plain", made)):
        print(f"| none | {name} | {judged(plain, moved)} | |", flush=True)
    for defence in options.defences:
        model = fitted(Defended(encoder, defence), options)
        for label, chosen in ATTACKS.items():
            if not chosen.keys() <= {"attack", *ADAPTIVE[defence]}:
                continue
            moved = attacked(model, **chosen)
            print(f"| {defence} | {label} | {judged(model, moved)} | {judged(model, moved, 10)} |", flush=True)
        print(f"| {defence} | transfer | {judged(model, made)} | {judged(model, made, 10)} |", flush=True)


def fitted(encoder: rp.Encoder, options: argparse.Namespace) -> Model:
    """The encoder with a head for CIFAR-10 on what it makes of training images."""
    torch.manual_seed(0)
    return rp.fit_probe(
        encoder.freeze(),
        "cifar10",
        task="classification",
        root=options.data_root,
        train_limit=options.train_limit,
        size=options.size,
    )


def shown(scores: Tensor) -> str:
    """`0.450 [0.331, 0.575]`."""
    found = wilson(int(scores.sum()), len(scores))
    return f"{found.value:.3f} [{found.ci_low:.3f}, {found.ci_high:.3f}]"


if __name__ == "__main__":
    main()
