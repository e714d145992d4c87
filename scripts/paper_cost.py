"""What the suite `paper` costs on a GPU: floating-point operations, counted, and hours, computed from them.

    python scripts/paper_cost.py

Needs neither datasets nor weights: networks have no values, images their published number and size. Matrix products,
convolutions and attention are counted, as torch counts them; heads are not, which cost little beside an encoder. Hours
assume that `SHARE` of a card's peak in fp32 is reached.
"""

from typing import NamedTuple, cast

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from robustprobe.attacks import Attack, load_attack
from robustprobe.attacks.base import target_tasks
from robustprobe.core.registry import attacks
from robustprobe.core.spec import Suite
from robustprobe.core.suites import find_suite
from robustprobe.core.types import FeatureDims
from robustprobe.datasets import Dataset, find_dataset
from robustprobe.encoders.base import EncoderCard
from robustprobe.probing.probes import images_seen, preprocessing_for
from robustprobe.probing.recipes import recipe_of
from robustprobe.tasks import fitting_attacks, load_task

ENCODERS = {
    "dinov2_vits14": ("vit_small_patch14_dinov2", 14, 518),
    "dinov2_vitb14": ("vit_base_patch14_dinov2", 14, 518),
    "dino_vitb16": ("vit_base_patch16_224", 16, 224),
}
CARDS = {"A100 (19.5 TFLOPS)": 19.5e12, "H100 SXM (67 TFLOPS)": 67e12, "RTX 4090 (82.6 TFLOPS)": 82.6e12}
"""Peaks in fp32 without sparsity, from the data sheets of the maker."""
SHARE = 0.5


class Cost(NamedTuple):
    """Operations to fit the heads of an encoder on a dataset, and to attack and judge all images."""

    heads: float
    attacks: float


def flops(architecture: str, size: tuple[int, int]) -> tuple[float, float]:
    """Operations for one image of (H, W): forward, and forward and backward to the image."""
    with torch.device("meta"):
        model = timm.create_model(architecture, pretrained=False, num_classes=0, img_size=size).eval()
        images = torch.empty(1, 3, *size, requires_grad=True)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with FlopCounterMode(display=False) as forward:
        output = model.forward_features(images)
    with FlopCounterMode(display=False) as backward:
        output.sum().backward()
    return forward.get_total_flops(), forward.get_total_flops() + backward.get_total_flops()


def cost(suite: Suite, encoder: str, data: Dataset, limit: int | None) -> Cost:
    """What one encoder costs on one dataset."""
    architecture, patch, side = ENCODERS[encoder]
    card = EncoderCard(name=encoder, patch_size=patch, input_size=(side, side), widths=FeatureDims(1, 1))
    serving = preprocessing_for(card, data, suite.head)
    images = min(limit or max(data.counts["test"]), max(data.counts["test"]))
    heads = attacked = 0.0
    for name, view in serving.views.items():
        size = find_dataset(data.name, size=serving.size).typical_size
        part = view.part_size(size)
        parts = view.pixels(size) / (part[0] * part[1])
        forward, step = flops(architecture, part)
        task = load_task(name, data.labels[name])
        # Heads are trained on crops of one part.
        heads += forward * images_seen(recipe_of(suite.head, task), max(data.counts["train"]))
        attacked += images * parts * attack_flops(suite, name, data, forward, step)
    return Cost(heads, attacked)


def attack_flops(suite: Suite, task: str, data: Dataset, forward: float, step: float) -> float:
    """Operations of all attacks of a suite on one part of an image, judged twice: as it is and rounded to 8 bits."""
    total = 0.0
    for choice in suite.attacks or ():
        kind = cast(type[Attack], attacks.get(choice.name))
        for target in target_tasks(choice.name, fitting_attacks([task])):
            losses = load_task(task, data.labels[task]).attack_losses if target else None
            for spec in suite.attack_specs(choice, kind.steps):
                passes = load_attack(spec).passes(losses)
                total += (passes.forwards - passes.backwards) * forward + passes.backwards * step + 2 * forward
    return total


def main() -> None:
    """Print the table."""
    suite = find_suite("paper")
    print("| encoder | dataset | heads, PFLOP | attacks, PFLOP | " + " | ".join(CARDS) + " |")
    print("|---|---|---:|---:|" + "---:|" * len(CARDS))
    total = 0.0
    for encoder in suite.encoders:
        for wanted in suite.datasets:
            found = cost(suite, encoder, find_dataset(wanted.name), wanted.limit)
            total += sum(found)
            print(
                _line(
                    f"{encoder} | {wanted.name}", f"{found.heads / 1e15:,.0f} | {found.attacks / 1e15:,.0f}", sum(found)
                )
            )
    print(_line("all | ", " | ", total))


def _line(names: str, counts: str, operations: float) -> str:
    hours = [f"{operations / (SHARE * peak) / 3600:.1f} h" for peak in CARDS.values()]
    return f"| {names} | {counts} | {' | '.join(hours)} |"


if __name__ == "__main__":
    main()
