"""Surrogate heads, fitted without task labels: the target of attacks that know neither head nor label.

Small segmentation heads of position and colour, fitted on generated scenes. Real heads read the same features, so
attacks on surrogate heads transfer to them.
"""

from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor

from robustprobe import probing
from robustprobe.core.fingerprints import code_digest, fingerprint
from robustprobe.core.resize import resized
from robustprobe.core.types import Features, HeadDesign, LabelSpace
from robustprobe.datasets import batches, load_dataset
from robustprobe.encoders import Encoder
from robustprobe.tasks import Head, TaskRecipe
from robustprobe.tasks.segmentation import Segmentation

STRIDE = 4
SCENES = 192
RATE = 1e-2
RECIPE = TaskRecipe(learning_rates=(RATE,), batch_size=16, designs=(HeadDesign(pooling="patch"),))
_CHUNK = 64


class SurrogateTask(NamedTuple):
    """Classes made from images alone: `rows`, a square `grid`, or clusters of colour and position (`mixed`)."""

    kind: str
    classes: int


SURROGATE_TASKS = (
    SurrogateTask("rows", 3),
    SurrogateTask("rows", 5),
    SurrogateTask("grid", 4),
    SurrogateTask("grid", 9),
    SurrogateTask("mixed", 10),
    SurrogateTask("mixed", 20),
)


@final
class SurrogateHeads:
    """The surrogate heads of one encoder, by size (H, W) of the images, loaded or fitted on first use.

    They are kept in memory, so that all images of a run meet the same heads even if the source is edited meanwhile.
    """

    def __init__(self, encoder: Encoder, device: torch.device, code: str = "") -> None:
        self.encoder, self.device, self.code = encoder, device, code
        self.known: dict[tuple[int, int], list[Head]] = {}

    def __call__(self, size: tuple[int, int]) -> list[Head]:
        self.code = self.code or code_digest()
        if size not in self.known:
            self.known[size] = fit_surrogate_heads(self.encoder, size, self.device, self.code)
        return self.known[size]


def fit_surrogate_heads(encoder: Encoder, size: tuple[int, int], device: torch.device, code: str = "") -> list[Head]:
    """A head for each of `SURROGATE_TASKS`, for images of `size` (H, W); fitted once and cached.

    Args:
        code: digest of the code that the heads depend on, if known.
    """
    code = code or code_digest()
    widths = encoder.card.widths
    tasks = [Segmentation(LabelSpace(classes=tuple(map(str, range(n))))) for _, n in SURROGATE_TASKS]
    keys = [fingerprint([encoder.digest, "surrogate", *task, *size, code]) for task in SURROGATE_TASKS]
    found = [probing.load_head(key, task, widths) for key, task in zip(keys, tasks, strict=True)]
    if any(fitted is None for fitted in found):
        images = _scenes(size)
        features = _features(encoder, images, device)
        for position, kind in enumerate(SURROGATE_TASKS):
            labels = surrogate_labels(kind, images)
            data = probing.FeatureSet(*features, {tasks[position].name: labels}, (labels.shape[1], labels.shape[2]))
            fit_job = probing.FitJob(tasks[position], RECIPE, widths, data, len(images), 0, device)
            (candidate,) = probing.train_heads(fit_job)
            found[position] = fitted = probing.Fitted(candidate.head, RATE, float("nan"), candidate.design)
            probing.save_head(keys[position], fitted)
    return [fitted.head.to(device) for fitted in found if fitted is not None]


def surrogate_labels(task: SurrogateTask, images: Tensor) -> Tensor:
    """Class maps (N, H / 4, W / 4) of images (N, 3, H, W)."""
    height, width = images.shape[-2] // STRIDE, images.shape[-1] // STRIDE
    classes = task.classes
    if task.kind == "rows":
        return (torch.arange(height) * classes // height)[:, None].expand(len(images), height, width).contiguous()
    if task.kind == "grid":
        side = round(classes**0.5)
        down, along = torch.arange(height) * side // height, torch.arange(width) * side // width
        cells: Tensor = down[:, None] * side + along
        return cells.expand(len(images), height, width).contiguous()
    colour = F.adaptive_avg_pool2d(images, (height, width))
    down, along = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    where = 0.7 * torch.stack([down, along]).expand(len(images), -1, -1, -1)
    points = torch.cat([colour, where], 1).permute(0, 2, 3, 1).flatten(0, 2)
    some = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:4000]]
    return torch.cdist(points, kmeans(some, classes)).argmin(1).view(len(images), height, width)


def kmeans(points: Tensor, count: int, seed: int = 0, rounds: int = 25) -> Tensor:
    """Centres (count, D) of clusters of points (N, D), by Lloyd's algorithm from random points of a seed."""
    centres = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:count]].clone()
    for _ in range(rounds):
        nearest = torch.cdist(points, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        members = nearest.bincount(minlength=count)[:, None]
        centres = torch.where(members > 0, sums / members.clamp(min=1), centres)
    return centres


def _scenes(size: tuple[int, int]) -> Tensor:
    data = load_dataset("scenes", split="train", limit=SCENES)
    return resized(torch.cat([batch.images for batch in batches(data, _CHUNK)]), size)


@torch.no_grad()
def _features(encoder: Encoder, images: Tensor, device: torch.device) -> Features:
    parts = [encoder(part.to(device)) for part in images.split(_CHUNK)]
    return Features(torch.cat([f.cls.cpu() for f in parts]), torch.cat([f.patches.cpu() for f in parts]))
