"""Which operations give other bits with another number of torch's threads, on this machine.

    python benchmarks/threads.py --encoder bundled:photos --size 96

First single operations at usual sizes, then every leaf module of an encoder, given the input that it has on one thread.
Compared with one thread: the answer, and the gradient of its input. Random inputs of one seed.
"""

import argparse
import platform
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustprobe as rp
from robustprobe.core.fast_linear import fast_linear

COUNTS = (2, 3, 4, 8)
BATCHES = (1, 8)
Operation = Callable[..., Tensor]


class Case(NamedTuple):
    """An operation on tensors, the first of which is differentiated; shapes without the batch."""

    name: str
    call: Operation
    shape: tuple[int, ...]
    weights: tuple[tuple[int, ...], ...] = ()


def norm(values: Tensor) -> Tensor:
    width = values.shape[1]
    return F.batch_norm(values, torch.zeros(width), torch.ones(width))


CASES = (
    Case("convolution 3x3, stride 2 (a stem)", lambda x, w: F.conv2d(x, w, stride=2), (3, 96, 96), ((32, 3, 3, 3),)),
    Case("convolution 3x3", lambda x, w: F.conv2d(x, w, padding=1), (64, 24, 24), ((64, 64, 3, 3),)),
    Case("convolution 1x1", F.conv2d, (96, 24, 24), ((24, 96, 1, 1),)),
    Case("convolution 8x8, stride 8 (patches)", lambda x, w: F.conv2d(x, w, stride=8), (3, 96, 96), ((128, 3, 8, 8),)),
    Case("depthwise 3x3", lambda x, w: F.conv2d(x, w, padding=1, groups=96), (96, 24, 24), ((96, 1, 3, 3),)),
    Case("depthwise 5x5", lambda x, w: F.conv2d(x, w, padding=2, groups=240), (240, 12, 12), ((240, 1, 5, 5),)),
    Case("linear (MKL)", F.linear, (145, 128), ((512, 128),)),
    Case("matrix product", lambda x: x @ x.transpose(-1, -2), (4, 145, 32)),
    Case("attention", lambda x: F.scaled_dot_product_attention(x, x, x), (4, 145, 32)),
    Case("softmax", lambda x: x.softmax(-1), (4, 145, 145)),
    Case("layer norm", lambda x: F.layer_norm(x, x.shape[-1:]), (145, 128)),
    Case("batch norm", norm, (96, 24, 24)),
    Case("GELU", F.gelu, (145, 512)),
    Case("bilinear, up", lambda x: F.interpolate(x, scale_factor=4, mode="bilinear"), (21, 24, 24)),
    Case("bicubic, down", lambda x: F.interpolate(x, size=(64, 64), mode="bicubic", antialias=True), (3, 96, 96)),
    Case("mean over the map", lambda x: x.mean((2, 3)), (1280, 7, 7)),
    Case("sum of all values of an image", lambda x: x.flatten(1).sum(1), (3, 224, 224)),
    Case("cross-entropy of a map", lambda x: F.cross_entropy(x, x.argmax(1), reduction="none"), (21, 96, 96)),
)


def answers(call: Operation, values: Sequence[Tensor], threads: int) -> list[Tensor]:
    """The answer and the gradient of the first of the values."""
    torch.set_num_threads(threads)
    first = values[0].clone().requires_grad_(True)
    answer = call(first.clone(), *values[1:])  # some modules work in place
    direction = torch.randn(answer.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(answer, first, direction)
    return [answer.detach(), gradient]


def different(call: Operation, values: Sequence[Tensor]) -> str:
    """Thread counts at which the answer or the gradient has other bits than on one thread."""
    one, told = answers(call, values, 1), []
    for count in COUNTS:
        pairs = zip(("answer", "gradient"), one, answers(call, values, count), strict=True)
        told += [f"{name} {count}" for name, a, b in pairs if not torch.equal(a, b)]
    return ", ".join(told) or "same bits"


def operations() -> None:
    print(f"| operation | {' | '.join(f'batch of {batch}' for batch in BATCHES)} |\n|---|{'---|' * len(BATCHES)}")
    for case in CASES:
        cells = []
        for batch in BATCHES:
            generator = torch.Generator().manual_seed(0)
            shapes = ((batch, *case.shape), *case.weights)
            cells.append(different(case.call, [torch.randn(shape, generator=generator) for shape in shapes]))
        print(f"| {case.name} | {' | '.join(cells)} |", flush=True)


def modules(encoder: rp.Encoder, size: int) -> None:
    """Each leaf module with the input that it has on one thread; counts by kind."""
    leaves = [m for m in encoder.modules() if not list(m.children()) and not isinstance(m, nn.Identity | nn.Dropout)]
    seen: list[tuple[nn.Module, Tensor]] = []

    def remember(module: nn.Module, given: tuple[Any, ...], answer: Any) -> None:
        if given and isinstance(given[0], Tensor) and isinstance(answer, Tensor):
            seen.append((module, given[0].detach()))

    handles = [leaf.register_forward_hook(remember) for leaf in leaves]
    torch.set_num_threads(1)
    images = torch.rand(8, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        encoder(images)
    for handle in handles:
        handle.remove()
    found: dict[str, list[str]] = {}
    for module, given in seen:
        found.setdefault(kind(module), []).append(different(module, [given]))
    print(f"\n| module of {encoder.card.name}, {size} x {size}, batch of 8 | modules | other bits | at |")
    print("|---|---:|---:|---|")
    for name, told in found.items():
        others = [text for text in told if text != "same bits"]
        at = ", ".join(dict.fromkeys(part for text in others for part in text.split(", ")))
        print(f"| {name} | {len(told)} | {len(others)} | {at or '-'} |", flush=True)


def kind(module: nn.Module) -> str:
    if not isinstance(module, nn.Conv2d):
        return type(module).__name__
    size = "x".join(map(str, module.kernel_size))
    return f"{'depthwise' if module.groups > 1 else 'convolution'} {size}, stride {module.stride[0]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", action="append")
    parser.add_argument("--size", type=int, default=96)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}")
    operations()
    with fast_linear():
        for name in options.encoder or ["bundled:photos"]:
            modules(rp.load_encoder(name), options.size)


if __name__ == "__main__":
    main()
