"""How many searches return one image that was planted in the gallery, before and after it was changed inside a ball.

    python benchmarks/gallery_poisoning.py --data-root ../shared/data --encoder bundled:photos

Each planted image is changed on its own, so that its embedding is among the first gallery items of as many known
queries as possible (val); what counts is the share of unseen queries (test) that return it. Nothing else of the
gallery is changed, and images are planted one at a time.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import robustprobe as rp
from robustprobe.core.ascent import projected_ascent
from robustprobe.core.threat import THREATS
from robustprobe.core.views import Resized
from robustprobe.datasets import load_dataset
from robustprobe.encoders import Encoder
from robustprobe.metrics.intervals import bootstrap

BATCH = 50


def embeddings(encoder: Encoder, images: Tensor) -> Tensor:
    """Unit class tokens (n, D)."""
    view = Resized(size=(images.shape[-2], images.shape[-1]))
    return F.normalize(view.embedding(encoder, images).cls, dim=1)


@torch.no_grad()
def fixed(encoder: Encoder, images: Tensor) -> Tensor:
    return torch.cat([embeddings(encoder, part) for part in images.split(BATCH)])


def poisoned(
    encoder: Encoder, images: Tensor, known: Tensor, best: Tensor, *, eps: float, steps: int, width: float
) -> Tensor:
    """Images (n, 3, H, W) inside the Linf ball; of all iterates the one that most known queries return.

    Args:
        known: embeddings (Q, D) of queries, and `best` (Q,), the similarity of each with the last item it returns.
        width: of the sigmoid that stands for being returned.
    """
    top, most = images.clone(), torch.full((len(images),), -1.0)

    def gradient(current: Tensor, step: int) -> tuple[Tensor, None]:
        shown = current.detach().requires_grad_()
        margin = embeddings(encoder, shown) @ known.T - best
        (found,) = torch.autograd.grad(torch.sigmoid(margin / width).sum(), shown)
        share = (margin > 0).double().mean(1).float() + 1e-6 * margin.mean(1).detach()
        better = share > most
        most[better], top[better] = share[better], current.detach()[better]
        return found, None

    threat = THREATS["linf"](eps)
    for size in (eps / 4, eps / 20):
        projected_ascent(threat, images, top.clone(), gradient, steps=steps // 2, step_size=size)
    return top


def images_of(name: str, split: str, count: int, options: argparse.Namespace) -> Tensor:
    data = load_dataset(
        name, root=options.data_root, split=split, limit=count, size=(options.size,) * 2, tasks=["classification"]
    )
    return torch.stack([torch.as_tensor(data[i].image) for i in range(len(data))])


def line(name: str, first: Tensor) -> str:
    """Mean share of queries (n, Q) that return a planted image; intervals draw planted images."""
    share = first.double().mean(1).numpy()
    found = bootstrap({"x": share, "n": share * 0 + 1}, lambda sums: sums["x"] / sums["n"])
    return f"| {name} | {found.value:.3f} [{found.ci_low:.3f}, {found.ci_high:.3f}] | {share.max():.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", action="append", required=True)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--gallery", type=int, default=500)
    parser.add_argument("--queries", type=int, default=200, help="known ones, and as many unseen ones")
    parser.add_argument("--planted", type=int, default=12)
    parser.add_argument("--eps", type=float, action="append", help="in 255ths")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--first", type=int, default=10, help="a search returns so many items")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--width", type=float, default=0.02)
    options = parser.parse_args()
    print(
        "| encoder | images | known queries: mean | most | unseen queries: mean | most |\n|---|---|---:|---:|---:|---:|"
    )
    gallery = images_of(options.dataset, "train", options.gallery, options)
    known = images_of(options.dataset, "val", options.queries, options)
    test = images_of(options.dataset, "test", options.queries + options.planted, options)
    unseen, planted = test[: options.queries], test[options.queries :]
    for name in options.encoder:
        encoder = rp.load_encoder(name)
        items, *queries = (fixed(encoder, images) for images in (gallery, known, unseen))
        best = [(q @ items.T).topk(options.first).values[:, -1] for q in queries]
        shown = {"clean": planted}
        generator = torch.Generator().manual_seed(0)
        for eps in options.eps or [8]:
            noise = (torch.randint(0, 2, planted.shape, generator=generator) * 2.0 - 1) * eps / 255
            shown[f"noise {eps:g}/255"] = (planted + noise).clamp(0, 1)
            shown[f"poisoned {eps:g}/255"] = poisoned(
                encoder, planted, queries[0], best[0], eps=eps / 255, steps=options.steps, width=options.width
            )
        for label, images in shown.items():
            made = fixed(encoder, images)
            parts = [line("", made @ q.T > b).removeprefix("|  |") for q, b in zip(queries, best, strict=True)]
            print(f"| {name} | {label} |{parts[0].rstrip('|')}|{parts[1]}", flush=True)


if __name__ == "__main__":
    main()
