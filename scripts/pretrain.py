"""Pre-train a bundled encoder without labels: contrastive image term, contrastive patch term, masked pixels.

Two views of each image (of a generated scene: of two renderings that share the geometry and differ in textures and
light). The first view has a share of its patches masked. Three terms are minimised:

* InfoNCE between the projected CLS tokens of the two views (SimCLR, Chen et al. 2020);
* InfoNCE between projected patch features sampled at the same scene points in both views
  (dense contrastive learning, Wang et al. 2021; Pinheiro et al. 2020);
* L1 distance between predicted and true pixels of the masked patches (SimMIM, Xie et al. 2022).

The bundled encoders were made by these two commands, in 26 and 37 minutes on two shared CPU cores; their cards have the
expected scores. A checkpoint is written every 100 steps; the same command continues from it.

    python scripts/pretrain.py --data scenes --steps 800 --out training/scenes
    python scripts/pretrain.py --data photos --data-root ../shared/data --steps 500 --out training/photos
"""

import argparse
import io
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from robustprobe.datasets._rendering import render

ARCHITECTURE = {"img_size": 64, "patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4}
MASKED_SHARE = 0.3
POINTS = 8


class Pool(NamedTuple):
    """Images `(N, A, 3, H, W)` uint8 in A appearances, the size of views, the batch, and the steps between batches."""

    images: Tensor
    view: tuple[int, int]
    batch: int
    every: int


class Views(NamedTuple):
    """Augmented images `(B, 3, h, w)` and the affine map `(B, 2, 3)` from view to image coordinates."""

    images: Tensor
    theta: Tensor


class Pretrainer(nn.Module):
    """The encoder with the three heads that are used in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = VisionTransformer(num_classes=0, dynamic_img_size=True, **ARCHITECTURE)
        dim, patch = ARCHITECTURE["embed_dim"], ARCHITECTURE["patch_size"]
        self.mask_token = nn.Parameter(torch.zeros(dim))
        self.image_head = projector(dim, 512, 128)
        self.patch_head = projector(dim, 256, 64)
        self.pixel_head = nn.Linear(dim, 3 * patch * patch)

    def tokens(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        encoder = self.encoder
        x = encoder.patch_embed(normalise(images))
        if mask is not None:
            x = torch.where(mask[..., None], self.mask_token.to(x.dtype), x)
        x = encoder.norm_pre(encoder._pos_embed(x))
        return cast(Tensor, encoder.norm(encoder.blocks(x)))

    def losses(self, first: Views, second: Views) -> dict[str, Tensor]:
        batch, _, height, width = first.images.shape
        patch = ARCHITECTURE["patch_size"]
        grid = (height // patch, width // patch)
        mask = torch.rand(batch, *grid, device=first.images.device) < MASKED_SHARE
        with torch.autocast(first.images.device.type, dtype=torch.bfloat16):
            a, b = self.tokens(first.images, mask), self.tokens(second.images)
            image = info_nce(self.image_head(a[:, 0]), self.image_head(b[:, 0]), temperature=0.2)
            maps = [t[:, 1:].transpose(1, 2).reshape(batch, -1, *grid) for t in (a, b)]
            pixels = self.pixel_head(a[:, 1:])
        points = common_points(first.theta, second.theta, POINTS)
        sampled = [sample(m.float(), p) for m, p in zip(maps, points, strict=True)]
        left, right = (self.patch_head(s.flatten(0, 1)) for s in sampled)
        dense = info_nce(left, right, temperature=0.2)
        target = F.unfold(normalise(first.images), patch, stride=patch).transpose(1, 2)
        error = (pixels.float() - target).abs().mean(-1)
        masked = mask.flatten(1)
        return {"image": image, "patch": dense, "pixel": (error * masked).sum() / masked.sum()}


def projector(width: int, hidden: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, out))


def normalise(images: Tensor) -> Tensor:
    return (images - 0.5) / 0.25


def info_nce(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE of matching rows of `a` and `b`, both `(N, D)`."""
    a, b = F.normalize(a.float(), dim=-1), F.normalize(b.float(), dim=-1)
    logits = a @ b.T / temperature
    target = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def common_points(first: Tensor, second: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Common image points in the coordinates of each of two views, both `(B, count, 2)` in [-1, 1]."""
    low = torch.maximum(*(t[:, :, 2] - t[:, :, :2].diagonal(dim1=1, dim2=2).abs() for t in (first, second)))
    high = torch.minimum(*(t[:, :, 2] + t[:, :, :2].diagonal(dim1=1, dim2=2).abs() for t in (first, second)))
    u = torch.rand(len(first), count, 2, device=first.device)
    points = low[:, None] + u * (high - low).clamp(min=0)[:, None]
    a, b = ((points - t[:, None, :, 2]) / t[:, :, :2].diagonal(dim1=1, dim2=2)[:, None] for t in (first, second))
    return a, b


def sample(features: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples `(B, P, D)` of maps `(B, D, h, w)` at points `(B, P, 2)`."""
    return F.grid_sample(features, points[:, None], align_corners=False)[:, :, 0].transpose(1, 2)


def random_views(images: Tensor, size: tuple[int, int], colours: bool = True) -> Views:
    """Random resized crop and flip, and with `colours` jitter and greyscale, drawn per image."""
    batch, device = len(images), images.device
    area = torch.empty(batch, device=device).uniform_(0.25, 1.0)
    aspect = torch.empty(batch, device=device).uniform_(math.log(0.8), math.log(1.25)).exp()
    scale = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 1).clamp(max=1.0)
    centre = (torch.rand(batch, 2, device=device) * 2 - 1) * (1 - scale)
    flip = torch.where(torch.rand(batch, device=device) < 0.5, -1.0, 1.0)
    theta = torch.zeros(batch, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 1, 1] = scale[:, 0] * flip, scale[:, 1]
    theta[:, :, 2] = centre
    grid = F.affine_grid(theta, [batch, 3, *size], align_corners=False)
    views = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return Views(colour_jitter(views) if colours else views, theta)


def colour_jitter(x: Tensor) -> Tensor:
    def factor(low: float, high: float) -> Tensor:
        return torch.empty(len(x), 1, 1, 1, device=x.device).uniform_(low, high)

    x = x * factor(0.6, 1.4)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * factor(0.6, 1.4)
    grey = x.mean(1, keepdim=True)
    saturation = torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.2, 0.0, factor(0.5, 1.5))
    x = grey + (x - grey) * saturation
    tint = torch.empty(len(x), 3, 1, 1, device=x.device).uniform_(0.85, 1.15)
    return (x * tint).clamp(0, 1)


def photo_pools(root: Path) -> list[Pool]:
    """CIFAR-10 train as JPEG, and the train images of CamVid and NYU Depth v2; labels are never read."""
    table = pq.read_table(root / "cifar10-pretrain-jpeg" / "train-00000-of-00001.parquet", columns=["img"])
    small = [decode(io.BytesIO(row["bytes"])) for row in table["img"].to_pylist()]
    camvid = [line.split()[0] for line in (root / "camvid" / "train.txt").read_text().splitlines()]
    nyu = [line.split()[0] for line in (root / "nyu_depth_v2" / "nyu_train.txt").read_text().splitlines()]
    paths = [root / "camvid" / p for p in camvid] + [root / "nyu_depth_v2" / p for p in nyu]
    large = [decode(p, (192, 144)) for p in paths]
    return [Pool(stack(small), (64, 64), 256, 1), Pool(stack(large), (96, 128), 96, 3)]


def scene_pools(images: int) -> list[Pool]:
    """Scenes of a split of their own, each rendered with two appearances, on all cores."""
    with ProcessPoolExecutor() as processes:
        pairs = list(processes.map(render_pair, range(images), chunksize=64))
    return [Pool(torch.from_numpy(np.stack(pairs)).permute(0, 1, 4, 2, 3), (64, 64), 256, 1)]


def render_pair(index: int) -> np.ndarray:
    return np.stack([render(f"pretrain-{index}", 64, appearance).image for appearance in ("", "/other")])


def decode(source: Path | io.BytesIO, size: tuple[int, int] | None = None) -> np.ndarray:
    image = Image.open(source).convert("RGB")
    return np.asarray(image.resize(size, Image.Resampling.BOX) if size else image)


def stack(images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()[:, None]


def draw(pool: Pool) -> tuple[Tensor, Tensor]:
    """Two appearances `(B, 3, H, W)` of the same random images; the same image twice where there is only one."""
    index = torch.randint(len(pool.images), (pool.batch,))
    pair = pool.images[index].float() / 255
    return pair[:, 0], pair[:, -1]


def train(options: argparse.Namespace) -> None:
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    pools = scene_pools(options.images) if options.data == "scenes" else photo_pools(options.data_root)
    model = Pretrainer()
    optimiser = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=0.05, betas=(0.9, 0.98))
    checkpoint, step, spent = out / "checkpoint.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        step, spent = state["step"], state["seconds"]
        torch.manual_seed(options.seed + step)
    start = time.time() - spent
    while step < options.steps:
        rate = min(1.0, (step + 1) / (0.05 * options.steps)) * (1 + math.cos(math.pi * step / options.steps)) / 2
        for group in optimiser.param_groups:
            group["lr"] = options.lr * rate
        for pool in pools:
            if step % pool.every:
                continue
            first, second = draw(pool)
            losses = model.losses(random_views(first, pool.view), random_views(second, pool.view))
            loss = losses["image"] + 0.5 * losses["patch"] + losses["pixel"]
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            if step % 25 == 0:
                terms = " ".join(f"{k} {v.item():.3f}" for k, v in losses.items())
                print(f"step {step} {tuple(pool.view)} {terms} {time.time() - start:.0f} s", flush=True)
        step += 1
        if step % 100 == 0 or step == options.steps:
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
            torch.save({**state, "seconds": time.time() - start}, out / "checkpoint.tmp")
            (out / "checkpoint.tmp").replace(checkpoint)
            save_file(model.encoder.state_dict(), out / "encoder.safetensors")
    record = {"data": options.data, "steps": options.steps, "seed": options.seed, "lr": options.lr}
    record |= {"architecture": ARCHITECTURE, "hours": round((time.time() - start) / 3600, 2)}
    (out / "training.json").write_text(json.dumps(record, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["scenes", "photos"], required=True)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--images", type=int, default=16000, help="scenes rendered once as the training pool")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
