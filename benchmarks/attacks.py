"""PGD side by side: this project, torchattacks, foolbox, ART and a plain loop; one model, one set of images, one eps.

    uv run python benchmarks/attacks.py --out benchmarks/results/attacks-cpu.json
    uv run python benchmarks/attacks.py --device cuda --model vit_base_patch16_224 --batch 128

Libraries run in turn, so that a machine whose speed drifts affects all alike; a ratio is taken within one round. The
model classifies all images correctly, so that no library gains by images that are wrong anyway. Memory is the peak of a
separate process per library, less what it held before the attack. FLOPs are counted, not computed, relative to the
floor of (2 + 1.5 a) forward passes per step, where a is the share of attention products.
"""

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

import robustprobe as rp
from robustprobe.core.freeze import frozen

EPS, STEP = 8 / 255, 2 / 255
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Normalised(nn.Module):
    """A classifier with its normalisation inside."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((images - 0.5) / 0.25)
        return logits


def ours(**options: Any) -> Attack:
    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return rp.attack(
            model, images, labels, task="classification", attack="pgd", eps=EPS, step_size=STEP, steps=STEPS, **options
        ).adversarial

    return run


def plain_loop(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """As in research code: weights require grad, `.backward()`, float32, last iterate."""
    adversarial = (images + (torch.rand_like(images) * 2 - 1) * EPS).clamp(0, 1)
    for _ in range(STEPS):
        adversarial.requires_grad_(True)
        nn.functional.cross_entropy(model(adversarial), labels).backward()
        assert adversarial.grad is not None
        moved = adversarial.detach() + STEP * adversarial.grad.sign()
        adversarial = (images + (moved - images).clamp(-EPS, EPS)).clamp(0, 1).detach()
    return adversarial


def with_torchattacks(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    import torchattacks

    found: Tensor = torchattacks.PGD(model, eps=EPS, alpha=STEP, steps=STEPS)(images, labels)
    return found


def with_foolbox(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    import foolbox
    from foolbox.models import PyTorchModel

    wrapped = PyTorchModel(model, bounds=(0, 1), device=images.device)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS)
    found: Tensor = attack(wrapped, images, labels, epsilons=EPS)[1]
    return found


def with_art(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        model=model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=10,
        clip_values=(0, 1),
        device_type="gpu" if images.is_cuda else "cpu",
    )
    attack = ProjectedGradientDescentPyTorch(
        classifier, eps=EPS, eps_step=STEP, max_iter=STEPS, num_random_init=1, batch_size=len(images), verbose=False
    )
    return torch.from_numpy(attack.generate(images.cpu().numpy(), labels.cpu().numpy())).to(images)


STEPS = 20
CONTENDERS: dict[str, Attack] = {
    "robustprobe": ours(),
    "robustprobe, early exit": ours(early_exit=True),
    "robustprobe, bf16": ours(precision="bf16"),
    "robustprobe, early exit, bf16": ours(early_exit=True, precision="bf16"),
    "torchattacks": with_torchattacks,
    "foolbox": with_foolbox,
    "ART": with_art,
    "plain loop": plain_loop,
}
PEERS = ("torchattacks", "foolbox", "ART", "plain loop")


class Result(NamedTuple):
    """Measurements of one library; `ratio` is its speed over the fastest peer's: minimum, median, maximum."""

    images_per_second: float
    ratio: tuple[float, float, float]
    accuracy_left: float
    flops_over_floor: float
    peak_memory_mib: float


class Setting(NamedTuple):
    """A classifier in evaluation mode, and images it classifies correctly."""

    model: nn.Module
    images: Tensor
    labels: Tensor


def make_setting(name: str, size: int, count: int, device: str) -> Setting:
    """A network of timm with seeded weights, its last layer fitted by ridge regression on generated scenes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model(name, num_classes=10, img_size=size)
    model = Normalised(network).to(device).eval()
    train = rp.load_dataset("scenes", split="train", limit=400, size=(size, size))
    features, labels = _features(network, train, device)
    scale, mean = features.std(0).clamp(min=1e-6), features.mean(0)
    x = torch.cat([(features - mean) / scale, torch.ones(len(features), 1)], 1).double()
    y = nn.functional.one_hot(labels, 10).double() * 10
    weights = torch.linalg.solve(x.T @ x + 30 * torch.eye(x.shape[1]), x.T @ y).float()
    with torch.no_grad():
        network.head.weight.copy_((weights[:-1] / scale[:, None]).T)
        network.head.bias.copy_(weights[-1] - (mean / scale) @ weights[:-1])
    images, labels = _correct(model, size, count, device)
    return Setting(model, images, labels)


@torch.no_grad()
def _features(network: Any, data: Any, device: str) -> tuple[Tensor, Tensor]:
    images = torch.stack([sample.image for sample in data])
    labels = torch.stack([sample.targets["classification"] for sample in data])
    parts = [
        network.forward_head(network.forward_features((x.to(device) - 0.5) / 0.25), pre_logits=True)
        for x in images.split(16)
    ]
    return torch.cat(parts).cpu(), labels


@torch.no_grad()
def _correct(model: nn.Module, size: int, count: int, device: str) -> tuple[Tensor, Tensor]:
    images, labels = [], []
    for sample in rp.load_dataset("scenes", split="test", limit=40 * count, size=(size, size)):
        if int(model(sample.image[None].to(device)).argmax()) == int(sample.targets["classification"]):
            images.append(sample.image)
            labels.append(sample.targets["classification"])
        if len(images) == count:
            break
    return torch.stack(images).to(device), torch.stack(labels).to(device)


def seconds(attack: Attack, setting: Setting) -> tuple[float, float]:
    """Time of an attack (s), and the accuracy left."""
    for parameter in setting.model.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    _synchronise(setting.images)
    start = time.perf_counter()
    adversarial = attack(setting.model, setting.images, setting.labels)
    _synchronise(setting.images)
    spent = time.perf_counter() - start
    assert (adversarial - setting.images).abs().max() <= EPS + 1e-5
    with torch.no_grad():
        left = (setting.model(adversarial).argmax(1) == setting.labels).float().mean()
    return spent, float(left)


def _synchronise(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize()


def _linear_flops(values: Any, weight: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
    return int(2 * math.prod(values) * out_shape[-1])


if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    register_flop_formula(torch.ops.mkldnn._linear_pointwise)(_linear_flops)


class NoModules:
    """A module tracker that reports all FLOPs at the top level."""

    parents = frozenset({"Global"})

    def __enter__(self) -> "NoModules":
        return self

    def __exit__(self, *error: object) -> None:
        pass


def counted(call: Callable[[], object]) -> tuple[int, int]:
    """FLOPs of a call, and the part of them in attention products."""
    counter = FlopCounterMode(display=False)
    # Its own tracker of modules hooks inputs, which `autograd.grad` with a leaf as input does not bear.
    counter.mod_tracker = cast(Any, NoModules())
    with counter:
        call()
    table = counter.get_flop_counts()["Global"]
    attention = sum(v for k, v in table.items() if "attention" in str(k) or "bmm" in str(k))
    return counter.get_total_flops(), attention


def flops(setting: Setting) -> dict[str, float]:
    """FLOPs of each library over the floor of the steps and the last evaluation."""
    images, labels = setting.images[:4], setting.labels[:4]
    with frozen(setting.model), torch.no_grad():
        forward, attention = counted(lambda: setting.model(images))
    floor = (2 + 1.5 * attention / forward) * forward * (STEPS + 1)
    found = {}
    for name, attack in CONTENDERS.items():
        for parameter in setting.model.parameters():
            parameter.requires_grad_(True)
        found[name] = counted(partial(attack, setting.model, images, labels))[0] / floor
    return found


def peak_memory(options: argparse.Namespace, name: str) -> float:
    """Peak memory (MiB) that an attack adds to a separate process."""
    command = [sys.executable, __file__, "--memory-of", name, "--model", options.model, "--size", str(options.size)]
    command += ["--batch", str(options.batch), "--device", options.device]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def added_memory(options: argparse.Namespace) -> float:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Normalised(timm.create_model(options.model, num_classes=10, img_size=options.size)).eval()
        model = model.to(options.device)
        images = torch.rand(options.batch, 3, options.size, options.size).to(options.device)
    labels = torch.zeros(options.batch, dtype=torch.int64, device=options.device)
    global STEPS
    STEPS = 2
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    with torch.no_grad():
        model(images[:1])
    before = _held(images)
    CONTENDERS[options.memory_of](model, images, labels)
    return (_held(images) - before) / 2**20


def _held(images: Tensor) -> float:
    if images.is_cuda:
        return float(torch.cuda.max_memory_allocated())
    # `ru_maxrss` would count what the process that started this one held.
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if options.memory_of:
        print(added_memory(options))
        return
    report(options)


def report(options: argparse.Namespace) -> None:
    setting = make_setting(options.model, options.size, options.batch, options.device)
    for attack in CONTENDERS.values():
        attack(setting.model, setting.images[:2], setting.labels[:2])  # warms up
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    left = {}
    for _ in range(options.rounds):
        for name, attack in CONTENDERS.items():
            spent, left[name] = seconds(attack, setting)
            times[name].append(spent)
            print(f"{name}: {spent:.1f} s, accuracy left {left[name]:.3f}", flush=True)
    fastest = min(PEERS, key=lambda name: statistics.median(times[name]))
    over_floor = flops(setting)
    results: dict[str, Result] = {}
    for name, own in times.items():
        ratios = sorted(peer / mine for peer, mine in zip(times[fastest], own, strict=True))
        results[name] = Result(
            options.batch / statistics.median(own),
            (ratios[0], statistics.median(ratios), ratios[-1]),
            left[name],
            over_floor[name],
            peak_memory(options, name),
        )
    facts = {
        "model": options.model,
        "size": options.size,
        "batch": options.batch,
        "steps": STEPS,
        "eps": EPS,
        "rounds": options.rounds,
        "device": options.device,
        "fastest_peer": fastest,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }
    show(results, fastest)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(
            json.dumps({"setting": facts, "results": {k: r._asdict() for k, r in results.items()}}, indent=1) + "\n"
        )


def show(results: dict[str, Result], fastest: str) -> None:
    print(f"\n{'':32} images/s  x {fastest} [least, most]  accuracy left  FLOPs/floor  peak MiB")
    for name, found in results.items():
        least, middle, most = found.ratio
        print(
            f"{name:32} {found.images_per_second:8.2f}  {middle:5.2f} [{least:.2f}, {most:.2f}]"
            f"  {found.accuracy_left:13.3f}  {found.flops_over_floor:11.2f}  {found.peak_memory_mib:8.0f}"
        )


if __name__ == "__main__":
    main()
