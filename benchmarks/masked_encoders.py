"""Which sanity check tells which masked encoder, and how often honest encoders fail one.

    python benchmarks/masked_encoders.py --data-root ../shared/data --sets 3

Each masking stands between the images and a bundled encoder with its head. `transfer` is the score of the masked model
on the images that the same attack makes on the model without the masking: where it is far below `score`, the masking
hid damage that is there. Thresholds were chosen on the honest encoders and on the maskings that are marked `tuned`.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import robustprobe as rp
from robustprobe.attacks import Attacked, Victim, load_attack
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.types import SanityCheck
from robustprobe.datasets import load_dataset
from robustprobe.evaluation.same_computation import SameComputation
from robustprobe.evaluation.sanity_checks import CheckedImages, JudgingModel, sample_checks, trace_checks, union_damage
from robustprobe.tasks import Model

Function = Callable[[Tensor], Tensor]
HONEST = (
    "bundled:photos",
    "bundled:photos-deacl",
    "bundled:photos-anyhead",
    "bundled:scenes",
    "bundled:scenes-deacl",
    "bundled:scenes-anyhead",
    "timm:resnet18.random",
)
PER_SET = 10


class _Backward(torch.autograd.Function):
    """The identity, with another gradient."""

    @staticmethod
    def forward(context: Any, images: Tensor, change: Function) -> Tensor:
        context.change = change
        return images.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return context.change(gradients[0]), None


def with_gradient(change: Function) -> Callable[[Function], Function]:
    """A masking that answers as the model does, and whose input gradient is changed."""
    return lambda model: lambda images: model(_Backward.apply(images, change))


def _fixed(shape: torch.Size, kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if kind == "signs":
        return torch.randint(0, 2, shape[1:], generator=generator) * 2.0 - 1
    return torch.randn(shape[1:], generator=generator)


def _eighth(gradient: Tensor) -> Tensor:
    kept = torch.full_like(gradient, 1e-20)
    kept[..., : gradient.shape[-1] // 8] = 1
    return gradient * kept


def _blurred(images: Tensor) -> Tensor:
    return F.avg_pool2d(images, 9, stride=1, padding=4)


def _coarse(images: Tensor) -> Tensor:
    return F.interpolate(F.avg_pool2d(images, 8), scale_factor=8)


def _shifted(images: Tensor) -> Tensor:
    """Each image rolled by 0 to 3 pixels, as its last bits say."""
    moves = (images.detach().double().sum((1, 2, 3)) * 1e4).long() % 4
    return torch.stack([image.roll(int(move), -1) for image, move in zip(images, moves, strict=True)])


def _low(images: Tensor) -> Tensor:
    return F.avg_pool2d(images, 7, stride=1, padding=3)


def _flipped_low(gradient: Tensor) -> Tensor:
    """The gradient with its low frequencies negated, at a fixed norm per image."""
    flipped = gradient - 2 * _low(gradient)
    length: Tensor = flipped.flatten(1).norm(dim=1).clamp(min=1e-20).view(-1, 1, 1, 1)
    return flipped / length


def _at_another(model: Function) -> Function:
    """Answers as the model does, with the gradient at another image of the batch."""

    def call(images: Tensor) -> Tensor:
        other = model(images.flip(0).detach() + images - images.detach())
        return model(images).detach() + other - other.detach()

    return call


def _resized_by_chance(model: Function) -> Function:
    def call(images: Tensor) -> Tensor:
        side = int(torch.randint(3 * images.shape[-1] // 4, images.shape[-1] + 1, ()))
        smaller = F.interpolate(images, (side, side), mode="bilinear")
        answers: Tensor = model(F.interpolate(smaller, images.shape[-2:], mode="bilinear"))
        return answers

    return call


def _turned_on_noise(model: Function) -> Function:
    """True gradients on smooth images, where one would check them, negated ones on images with a trace of noise."""

    def call(images: Tensor) -> Tensor:
        corners = images.detach()[..., 1:, 1:] - images.detach()[..., :-1, 1:] - images.detach()[..., 1:, :-1]
        mixed = (corners + images.detach()[..., :-1, :-1]).abs().flatten(1).median(1).values
        smooth = (mixed < 1 / 255).view(-1, 1, 1, 1)
        answers: Tensor = model(_Backward.apply(images, lambda g: torch.where(smooth, g, -g)))
        return answers

    return call


def _through_numpy(model: Function) -> Function:
    """The answer is computed from a copy outside torch; a weak live part gives some gradient."""
    return lambda x: 0.95 * model(torch.from_numpy(x.detach().numpy().copy())).detach() + 0.05 * model(_blurred(x))


class Masking(NamedTuple):
    """A way to hide damage from an attack; `tuned` where thresholds were chosen with it in sight."""

    name: str
    tuned: bool
    wrap: Callable[[Function], Function]


MASKINGS = (
    Masking("detached branch, weak live one", True, lambda m: lambda x: m(x).detach() + 0.05 * m(_blurred(x))),
    Masking(
        "permuted gradients",
        True,
        with_gradient(lambda g: g[..., torch.randperm(g.shape[-1], generator=torch.Generator().manual_seed(0))]),
    ),
    Masking(
        "ripple of high frequency", True, lambda m: lambda x: m((x + 0.01 * torch.sin(800 * torch.pi * x)).clamp(0, 1))
    ),
    Masking("gradient on an eighth", True, with_gradient(_eighth)),
    Masking("noisy gradients", True, with_gradient(lambda g: g + 3 * g.std() * _fixed(g.shape, "noise"))),
    Masking("batch statistics", True, lambda m: lambda x: (lambda y: y - y.mean(0))(m(x))),
    Masking("negated gradients", False, with_gradient(lambda g: -g)),
    Masking("signs of half the gradients", False, with_gradient(lambda g: g * _fixed(g.shape, "signs"))),
    Masking(
        "gradient of a blurred copy",
        False,
        lambda m: lambda x: m(x).detach() + (lambda y: y - y.detach())(m(_blurred(x))),
    ),
    Masking("smoothed gradients", False, with_gradient(_coarse)),
    Masking("mirrored gradients", False, with_gradient(lambda g: g.flip(-1))),
    Masking(
        "4 bits, weak live image", False, lambda m: lambda x: m(0.95 * ((x * 15).round() / 15).detach() + 0.05 * x)
    ),
    Masking("shift by content", False, lambda m: lambda x: m(_shifted(x))),
    Masking("noise at every call", False, lambda m: lambda x: m((x + 0.05 * torch.randn_like(x)).clamp(0, 1))),
    Masking("logits times 1000", False, lambda m: lambda x: 1000 * m(x)),
    Masking("gradient at another image", False, _at_another),
    Masking("random resizing", False, _resized_by_chance),
    Masking("low frequencies detached", False, lambda m: lambda x: m(_low(x).detach() + x - _low(x))),
    Masking("fixed norm, low frequencies negated", False, with_gradient(_flipped_low)),
    Masking("negated on images with noise", False, _turned_on_noise),
    Masking("through numpy, weak live part", False, _through_numpy),
)


class Case(NamedTuple):
    """A fitted model and ten images with labels."""

    model: Model
    images: Tensor
    targets: Tensor
    ids: list[str]


def run(function: Function, case: Case, spec: AttackSpec) -> Attacked:
    task = case.model.task
    victim = Victim(function, case.targets, task.space, task.attack_losses, task.name)
    return load_attack(spec).run(victim, case.images, case.ids)


def attacked(function: Function, case: Case, spec: AttackSpec) -> tuple[Tensor, list[SanityCheck]]:
    """Adversarial images of an attack on a function, and all its checks."""
    task = case.model.task
    victim = Victim(function, case.targets, task.space, task.attack_losses, task.name)
    attack, found = load_attack(spec), run(function, case, spec)
    ends = float(found.images.min()), float(found.images.max())
    size = attack.threat.size(found.images - case.images)
    sample = CheckedImages(victim, case.images, case.ids, found.images, found.damage)
    judges = {task.name: JudgingModel(function, case.targets, task)}
    checks = trace_checks(spec, ends, size, found.zero_gradient, found.rising)
    return found.images, checks + sample_checks(spec, sample, judges)[task.name]


def score(function: Function, case: Case, images: Tensor) -> float:
    return float(JudgingModel(function, case.targets, case.model.task).scores(images).mean())


def cases(encoder: str, options: argparse.Namespace) -> list[Case]:
    """Sets of ten test images under one head."""
    model = rp.fit_probe(
        encoder,
        options.dataset,
        task=options.task,
        root=options.data_root,
        train_limit=options.train_limit,
        size=(options.size, options.size),
        device="cpu",
    )
    data = load_dataset(
        options.dataset,
        root=options.data_root,
        split="test",
        limit=options.sets * PER_SET,
        size=(options.size, options.size),
    )
    samples = [data[i] for i in range(len(data))]
    return [
        Case(
            model,
            torch.stack([torch.as_tensor(s.image) for s in part]),
            torch.stack([torch.as_tensor(s.targets[options.task]) for s in part]),
            [s.id for s in part],
        )
        for part in (samples[i : i + PER_SET] for i in range(0, len(samples), PER_SET))
    ]


def row(name: str, wrap: Callable[[Function], Function], told: list[Case], spec: AttackSpec) -> str:
    clean, left, transfer, failures, values = [], [], [], [], []
    for case in told:
        torch.manual_seed(0)
        function = wrap(case.model)
        made, checks = attacked(function, case, spec)
        plain = made if wrap is honest else run(case.model, case, spec).images
        clean.append(score(function, case, case.images))
        left.append(score(function, case, made))
        transfer.append(score(function, case, plain))
        failures += [c.name for c in checks if not c.passed]
        values += [c.value for c in checks if c.name == "gradient"]
    numbers = [sum(x) / len(x) for x in (clean, left, transfer)]
    counts = ", ".join(f"{n} {failures.count(n)}/{len(told)}" for n in dict.fromkeys(failures)) or "none"
    shown = " to ".join(f"{v:.2f}" for v in (min(values), max(values))) if values else "-"
    return f"| {name} | {' | '.join(f'{n:.2f}' for n in numbers)} | {shown} | {counts} |"


def smoothed(function: Function, eps: float) -> Function:
    """A stand-in: the mean over draws of noise."""
    return lambda x: torch.stack([function((x + eps * torch.randn_like(x)).clamp(0, 1)) for _ in range(8)]).mean(0)


def gains(
    name: str, wrap: Callable[[Function], Function], told: list[Case], others: list[Case], spec: AttackSpec
) -> str:
    """What attacks through stand-ins add to that on the model, as a share of the clean score; ! where it fails."""
    shares: dict[str, list[str]] = {"same operations": [], "noise": [], "other encoder": []}
    for case, other in zip(told, others, strict=True):
        torch.manual_seed(0)
        function = wrap(case.model)
        judge = JudgingModel(function, case.targets, case.model.task)
        clean, scores = judge.scores(case.images), judge.scores(run(function, case, spec).images)
        stand_ins: tuple[Function, ...] = (SameComputation(function), smoothed(function, spec.eps), other.model)
        for found, stand_in in zip(shares.values(), stand_ins, strict=True):
            more = union_damage(judge, clean, scores, run(stand_in, case, spec).images)
            found.append(f"{more.gain:.2f}{'' if more.passed else '!'}")
    return f"| {name} | {' | '.join(' '.join(found) for found in shares.values())} |"


def honest(model: Function) -> Function:
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--task", default="classification")
    parser.add_argument("--attack", default="pgd")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--eps", type=float, default=2, help="in 255ths")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--sets", type=int, default=3, help="sets of ten images")
    parser.add_argument("--train-limit", type=int, default=1000)
    parser.add_argument("--encoder", action="append", help="honest ones, instead of the usual list")
    parser.add_argument("--masked", default="bundled:photos", help="what is masked; empty: honest ones only")
    parser.add_argument("--stand-ins", metavar="ENCODER", help="compare stand-ins, of which one is this encoder")
    options = parser.parse_args()
    spec = AttackSpec(name=options.attack, eps=options.eps / 255, steps=options.steps)
    if options.stand_ins:
        told, others = cases(options.masked, options), cases(options.stand_ins, options)
        print("| model | same operations | noise | other encoder |\n|---|---|---|---|")
        for masking in (Masking("none", False, honest), *MASKINGS):
            print(gains(masking.name, masking.wrap, told, others, spec), flush=True)
        return
    print("| model | clean | score | transfer | gradient error | failed checks |\n|---|---:|---:|---:|---|---|")
    for encoder in options.encoder or HONEST:
        print(row(encoder, honest, cases(encoder, options), spec), flush=True)
    told = cases(options.masked, options) if options.masked else []
    for masking in MASKINGS if told else ():
        label = f"{masking.name}{' (tuned)' * masking.tuned}"
        print(row(label, masking.wrap, told, spec), flush=True)


if __name__ == "__main__":
    main()
