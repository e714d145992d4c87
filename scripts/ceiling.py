"""How robust a task can be at this size: encoder and head adversarially trained end to end, with labels.

    python scripts/ceiling.py --encoder bundled:scenes --dataset scenes --task depth --limit 1000 --epochs 4

The head is first fitted as `robustprobe run` fits it; then encoder and head are trained on attacked images alone, with
attacks that maximise the training loss. Prints the scores of this head, clean and under the task-specific attack.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from robustprobe import probing
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.freeze import frozen
from robustprobe.core.head_spec import HeadSpec
from robustprobe.core.sizes import format_eps, parse_eps
from robustprobe.core.threat import image_generator
from robustprobe.datasets import batches, find_dataset, load_dataset
from robustprobe.defences import ascend, linf
from robustprobe.encoders import Encoder, load_encoder
from robustprobe.evaluation.collect import RowCollector
from robustprobe.evaluation.evaluate import EvaluationSpec, evaluate
from robustprobe.tasks import Model, fit_labels
from robustprobe.training.data import shuffle
from robustprobe.training.schedule import rate_factor

OWN = {"classification": "pgd", "segmentation": "segpgd", "depth": "depthpgd"}
BATCH = 64
HEAD_RATE = 1e-3


def starting_model(chosen: argparse.Namespace) -> tuple[Model, Any]:
    """The encoder with a head fitted as usual, and the size (H, W) that images are served at."""
    spec = HeadSpec(train_limit=chosen.train_limit)
    encoder = load_encoder(chosen.encoder).freeze()
    data = find_dataset(chosen.dataset, root=chosen.data_root)
    serving = probing.preprocessing_for(encoder.card, data, spec, tuple(chosen.size) if chosen.size else None)
    train_data = probing.train_data(chosen.dataset, chosen.data_root, serving, spec)
    fitted = probing.fit_probes(encoder, train_data, [chosen.task], spec=spec, device=torch.device("cpu"))
    return fitted[chosen.task][0], serving.size


def train_tensors(chosen: argparse.Namespace, size: Any) -> tuple[Tensor, Tensor]:
    """Images (N, 3, H, W), and labels at the size of the images."""
    data = load_dataset(chosen.dataset, root=chosen.data_root, split="train", limit=chosen.limit, size=size)
    parts = list(batches(data, BATCH))
    images = torch.cat([part.images for part in parts])
    labels = torch.cat([part.targets[chosen.task] for part in parts])
    return images, fit_labels(labels, (images.shape[-2], images.shape[-1]))


def train(model: Model, images: Tensor, labels: Tensor, chosen: argparse.Namespace) -> None:
    """Adversarial training of encoder and head, in place."""
    groups = [
        {"params": list(model.encoder.parameters()), "base": chosen.learning_rate},
        {"params": list(model.head.parameters()), "base": HEAD_RATE},
    ]
    model.requires_grad_(True)
    optimiser = torch.optim.AdamW(groups, weight_decay=1e-4, betas=(0.9, 0.95))
    each, start = len(images) // BATCH, time.monotonic()
    total, ball = each * chosen.epochs, linf(parse_eps(chosen.eps), chosen.attack_steps)
    for step in range(total):
        epoch, number = divmod(step, each)
        positions = shuffle(len(images), chosen.seed, epoch)[number * BATCH : (number + 1) * BATCH]
        flipped = torch.rand(BATCH, generator=image_generator(chosen.seed, "", "flip", step)) < 0.5
        clean, target = flip(images[positions], flipped), flip(labels[positions], flipped)

        def objective(moved: Tensor, progress: float, target: Tensor = target) -> Tensor:
            return model.task.training_loss(model(moved), target)

        randomness = [image_generator(chosen.seed, str(position), "attack", epoch) for position in positions]
        with frozen(model):
            moved = ascend(objective, clean, randomness, ball)
        for group in optimiser.param_groups:
            group["lr"] = group["base"] * rate_factor(step, total, 0.1)
        loss = objective(moved, 1.0).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if number == each - 1:
            print(f"epoch {epoch + 1}: loss {float(loss.detach()):.3f}, {time.monotonic() - start:.0f} s", flush=True)
    model.requires_grad_(False)


def flip(values: Tensor, which: Tensor) -> Tensor:
    """Images or label maps, mirrored where `which` is true; class labels unchanged."""
    if values.ndim == 1:
        return values
    return torch.where(which.view(-1, *[1] * (values.ndim - 1)), values.flip(-1), values)


def scores(model: Model, chosen: argparse.Namespace, size: Any) -> dict[str, list[float]]:
    """The headline metric with its interval, clean and at each eps."""
    data = load_dataset(chosen.dataset, root=chosen.data_root, limit=chosen.test_limit, size=size)
    sizes = [parse_eps(eps) for eps in chosen.attack_eps]
    attack_specs = [
        AttackSpec(name=OWN[chosen.task], eps=eps, steps=chosen.steps, warm=tuple(sizes[:i]))
        for i, eps in enumerate(sizes)
    ]
    found: dict[str, list[float]] = {}
    for specs in ((AttackSpec(name="clean"),), tuple(attack_specs)):
        target_task = "" if specs[0].name == "clean" else chosen.task
        encoder = cast(Encoder, model.encoder)
        work = EvaluationSpec(
            encoder, {chosen.task: model}, data, specs, target_task, [chosen.task], 50, "fp32", torch.device("cpu")
        )
        tallies = [RowCollector(spec, set()) for spec in specs]
        for batch in evaluate(work):
            for tally, judged in zip(tallies, batch, strict=True):
                tally.take(judged)
        for tally in tallies:
            estimate = model.task.estimates(tally.columns(chosen.task))[model.task.metric]
            label = "clean" if not target_task else f"{tally.spec.name} {format_eps(tally.spec.eps)}"
            found[label] = [round(float(value), 4) for value in estimate]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--task", required=True, choices=OWN)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--train-limit", type=int, default=600, help="images that the head is first fitted on")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="that images are shown at")
    parser.add_argument("--test-limit", type=int, default=150)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--eps", default="8/255", help="of training")
    parser.add_argument("--attack-steps", type=int, default=5, help="of training")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of the encoder")
    parser.add_argument("--attack-eps", nargs="+", default=["1/255", "2/255", "4/255", "8/255"])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    model, size = starting_model(chosen)
    train(model, *train_tensors(chosen, size), chosen)
    model.eval()
    said = {key: str(value) for key, value in vars(chosen).items()}
    print(json.dumps({**said, "scores": scores(model, chosen, size)}))


if __name__ == "__main__":
    main()
