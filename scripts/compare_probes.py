"""Compare an encoder with the same architecture of random weights and with raw pixels, under the same probes.

For the cards of the bundled encoders:

    python scripts/compare_probes.py src/robustprobe/assets/encoders/scenes --dataset scenes --train-limit 1500
    python scripts/compare_probes.py src/robustprobe/assets/encoders/photos --dataset cifar10 --data-root ../shared/data
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.head_spec import HeadSpec
from robustprobe.core.types import FeatureDims, Features
from robustprobe.datasets import find_dataset, load_dataset
from robustprobe.encoders import Encoder, EncoderCard
from robustprobe.encoders.file import Architecture, build, load_folder, read_card
from robustprobe.evaluation.evaluate import EvaluationSpec, evaluate
from robustprobe.probing import fit_probes, preprocessing_for, train_data


class RawPixels(Encoder):
    """Features without weights: CLS is the image at half size, patch tokens are the pixels of each patch."""

    def __init__(self, size: tuple[int, int], patch: int) -> None:
        widths = raw_widths(size, patch)
        super().__init__(EncoderCard(name="raw pixels", patch_size=patch, input_size=size, widths=widths))

    def features(self, images: Tensor) -> Features:
        patch = self.card.patch_size
        rows, columns = images.shape[-2] // patch, images.shape[-1] // patch
        patches = F.unfold(images, patch, stride=patch).reshape(len(images), -1, rows, columns)
        return Features(F.avg_pool2d(images, 2).flatten(1), patches)


def raw_widths(size: tuple[int, int], patch: int) -> FeatureDims:
    return FeatureDims(3 * (size[0] // 2) * (size[1] // 2), 3 * patch * patch)


def candidates(folder: Path) -> list[Encoder]:
    """The encoder of a folder, its architecture with random weights, and raw pixels."""
    trained = load_folder(folder, "trained")
    torch.manual_seed(0)
    untrained = build(Architecture.model_validate(read_card(folder)["architecture"]), "random weights")
    return [trained, untrained, RawPixels(trained.card.input_size, trained.card.patch_size)]


def clean_scores(encoder: Encoder, options: argparse.Namespace) -> dict[str, str]:
    """Each task's headline metric on clean test images."""
    found = find_dataset(options.dataset, root=options.data_root)
    size = found.fit_size(encoder.card.input_size, encoder.card.patch_size)
    spec = HeadSpec(train_limit=options.train_limit, pooling=options.pooling)
    tasks = list(found.labels)
    if encoder.card.name == "raw pixels":
        encoder.card = encoder.card.model_copy(update={"widths": raw_widths(size, encoder.card.patch_size)})
    data = train_data(options.dataset, options.data_root, preprocessing_for(encoder.card, found, spec), spec)
    probes = fit_probes(encoder, data, tasks, spec=spec, device=torch.device("cpu"))
    test = load_dataset(options.dataset, root=options.data_root, limit=options.limit, size=size)
    models = {name: model for name, (model, _) in probes.items()}
    clean = AttackSpec(name="clean", eps=0, steps=1)
    work = EvaluationSpec(encoder, models, test, (clean,), "", tasks, 64, "fp32", torch.device("cpu"))
    verdicts = [verdict for (verdict,) in evaluate(work)]
    scores = {}
    for name, (model, fitted) in probes.items():
        columns = {c: np.concatenate([v.rows[name][c].numpy() for v in verdicts]) for c in verdicts[0].rows[name]}
        metric, estimate = next(iter(model.task.estimates(columns).items()))
        scores[f"{name} {metric}"] = f"{estimate.value:.3f} [{estimate.ci_low:.3f}, {estimate.ci_high:.3f}]"
        scores[f"{name} lr"] = f"{fitted.learning_rate:g}"
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with card.json and encoder.safetensors")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--pooling", default="cls")
    parser.add_argument("--train-limit", type=int)
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    for encoder in candidates(options.folder):
        print(encoder.card.name, clean_scores(encoder.freeze(), options), flush=True)


if __name__ == "__main__":
    main()
